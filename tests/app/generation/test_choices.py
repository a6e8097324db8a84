import asyncio

import pytest

from app.generation import choices
from app.generation.choices import Answer, Choices, Prompt, likeliest
from core.errors import PromptTooLong
from core.serving.generation import Conversation, Delta, SamplingParams, Token, Turn, Variables
from tests.harness.stub_engine import CONTEXT_TOKENS, StubEngine


def answer(*logprobs: float) -> Answer:
    tokens = tuple(Token(id=1, text="a", logprob=logprob, special=False) for logprob in logprobs)
    return Answer(None, [Delta(text="a" * len(tokens), tokens=tokens)])


def test_an_answer_without_a_token_is_not_the_likeliest() -> None:
    nothing, unlikely, likely = answer(), answer(-5.0, -7.0), answer(-0.5)
    assert nothing.mean_logprob is None
    assert likeliest([nothing, unlikely, likely], of=3, keep=3) == [likely, unlikely, nothing]


class TestLongPrompt:
    """One of several answers, which is longer than what is written out for each answer at once."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choices, "_LONG", 100)

    @staticmethod
    def answers(engine: StubEngine, *prompts: Prompt) -> Choices:
        return Choices(engine, prompts, None, SamplingParams(), each=4, id="r", caller="c")

    @pytest.mark.parametrize(
        "prompt",
        [
            "a " * CONTEXT_TOKENS,
            tuple(range(CONTEXT_TOKENS)),
            Conversation(messages=(Turn(role="user", content="a " * CONTEXT_TOKENS),)),
        ],
        ids=["text", "ids", "conversation"],
    )
    def test_that_is_refused_was_sent_once(self, prompt: Prompt) -> None:
        engine = StubEngine()
        with pytest.raises(PromptTooLong):
            asyncio.run(self.answers(engine, prompt).whole())
        assert [request.id for request in engine.requests] == ["r-0"]

    def test_of_variables_that_is_refused_was_sent_once(self) -> None:
        engine = StubEngine()
        engine.fails_before = PromptTooLong(300, 16, CONTEXT_TOKENS)
        with pytest.raises(PromptTooLong):
            asyncio.run(self.answers(engine, Variables(variables={"question": "a" * 101, "n": 1})).whole())
        assert len(engine.requests) == 1

    def test_has_all_its_answers(self) -> None:
        engine = StubEngine()
        answers = asyncio.run(self.answers(engine, "a" * 101, "b").whole())
        assert [answer.text for answer in answers] == [" one two three"] * 8
        assert sorted(request.id for request in engine.requests) == [f"r-{number}" for number in range(8)]

    def test_is_answered_by_all_as_soon_as_the_first_answer_begins(self) -> None:
        engine = StubEngine()

        async def begin() -> set[int]:
            engine.holds = asyncio.Event()  # no answer comes to its end
            begun = set()
            async for index, _ in self.answers(engine, "a" * 101).deltas():
                begun.add(index)
                if len(begun) == 4:
                    break
            return begun

        assert asyncio.run(asyncio.wait_for(begin(), 20)) == {0, 1, 2, 3}


def test_a_short_prompts_answers_wait_for_none() -> None:
    engine = StubEngine()
    engine.fails_before = PromptTooLong(300, 16, CONTEXT_TOKENS)
    with pytest.raises(PromptTooLong):
        asyncio.run(TestLongPrompt.answers(engine, "a").whole())
    assert len(engine.requests) == 4
