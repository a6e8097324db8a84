"""What is counted of an engine's answers."""

import asyncio
import contextlib

import pytest

from app.engines.counted import CountedAnswer, CountedEngine
from core.errors import AdapterInvalid, EngineBusy, GenerationFailed, PromptTooLong, ServiceError
from core.serving.generation import FinishReason, GenerationRequest, SamplingParams
from tests.harness.stub_engine import StubEngine


def ask(engine: StubEngine, *, leaves_after: int | None = None, **sampling: int | bool) -> list[CountedAnswer]:
    counted: list[CountedAnswer] = []
    request = GenerationRequest(id="r", prompt="a b", adapter=None, sampling=SamplingParams.model_validate(sampling))

    async def read() -> None:
        deltas = CountedEngine(engine, counted.append).generate(request)
        number = 0
        async for _ in deltas:
            number += 1
            if number == leaves_after:
                break
        await deltas.aclose()

    with contextlib.suppress(ServiceError, ZeroDivisionError):  # what the engine raised, which its caller gets too
        asyncio.run(read())
    return counted


@pytest.mark.parametrize(("most", "reason", "tokens"), [(9, FinishReason.END, 4), (2, FinishReason.LENGTH, 2)])
def test_a_whole_answer_is_counted_once_with_its_end_and_length(most: int, reason: FinishReason, tokens: int) -> None:
    [answer] = ask(StubEngine(), max_tokens=most)
    assert (answer.reason, answer.tokens) == (reason, tokens)
    assert answer.seconds > 0


def test_an_answer_whose_end_was_read_is_counted_though_nobody_asks_for_more() -> None:
    assert len(ask(StubEngine(), max_tokens=2, leaves_after=2)) == 1


def test_a_client_that_leaves_says_nothing_of_the_model() -> None:
    assert ask(StubEngine(), max_tokens=9, leaves_after=1) == []


def test_a_prompt_that_is_only_scored_is_no_answer() -> None:
    assert ask(StubEngine(), max_tokens=0, prompt_logprobs=True) == []


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (GenerationFailed("x"), 1),
        (AdapterInvalid("x", "y"), 1),
        (ZeroDivisionError(), 1),
        (PromptTooLong(9, 9, 9), 0),
        (EngineBusy(9, 1), 0),
    ],
)
def test_what_the_model_cannot_answer_is_counted_and_what_is_asked_wrong_is_not(error: Exception, counts: int) -> None:
    engine = StubEngine()
    engine.fails_after = (1, error)
    assert [answer.reason for answer in ask(engine, max_tokens=9)] == [None] * counts
