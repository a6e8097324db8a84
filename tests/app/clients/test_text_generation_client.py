"""text_generation 0.7, unmodified: `tests.on_stack.test_clients` runs the same tests against a real engine.

Its stream of chat completions is not among them: it reads OpenAI's closing [DONE] as JSON and fails.
"""

import json

import pytest
from text_generation import Client
from text_generation.errors import ValidationError
from text_generation.types import Grammar, GrammarType, Message

from tests.harness.servers.live_api import JSON_TOKENS, PROMPT, SCHEMA, LiveApi


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated:DeprecationWarning")  # the client's own
class TestTextGeneration:
    @pytest.fixture
    def tgi(self, live_api: LiveApi) -> Client:
        return Client(live_api.url, headers=live_api.headers)

    def test_generate(self, tgi: Client) -> None:
        answer = tgi.generate(PROMPT, max_new_tokens=3, top_n_tokens=2, decoder_input_details=True)
        assert answer.details.generated_tokens == len(answer.details.tokens) <= 3
        assert [len(top) for top in answer.details.top_tokens or ()] == [2] * answer.details.generated_tokens
        assert answer.details.prefill[0].logprob is None
        assert "".join(token.text for token in answer.details.tokens if not token.special) == answer.generated_text

    def test_generate_stream(self, tgi: Client) -> None:
        whole = tgi.generate(PROMPT, max_new_tokens=3)
        events = list(tgi.generate_stream(PROMPT, max_new_tokens=3, top_n_tokens=1))
        assert events[-1].generated_text == whole.generated_text
        assert "".join(event.token.text for event in events if not event.token.special) == whole.generated_text
        assert all(len(event.top_tokens or ()) == 1 for event in events)
        assert events[-1].details is not None
        assert events[-1].details.finish_reason == whole.details.finish_reason

    def test_sampling_with_penalties_tells_its_seed(self, tgi: Client) -> None:
        answer = tgi.generate(
            PROMPT,
            max_new_tokens=3,
            do_sample=True,
            temperature=0.7,
            repetition_penalty=1.2,
            frequency_penalty=0.5,
            seed=4,
        )
        assert answer.details.seed == 4

    def test_the_best_of_several(self, tgi: Client) -> None:
        answer = tgi.generate(PROMPT, max_new_tokens=3, do_sample=True, best_of=3)
        assert len(answer.details.best_of_sequences or ()) == 2

    def test_answers_that_follow_a_grammar(self, tgi: Client) -> None:
        by_schema = Grammar(type=GrammarType.Json, value=SCHEMA)
        assert json.loads(tgi.generate(PROMPT, grammar=by_schema, max_new_tokens=JSON_TOKENS).generated_text)["answer"]
        by_expression = Grammar(type=GrammarType.Regex, value="one|two")
        assert tgi.generate(PROMPT, grammar=by_expression, max_new_tokens=JSON_TOKENS).generated_text in ("one", "two")

    def test_chat(self, tgi: Client) -> None:
        answer = tgi.chat([Message(role="user", content=PROMPT)], max_tokens=3, logprobs=True, top_logprobs=1)
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage["completion_tokens"] <= 3

    def test_errors_are_the_clients_own(self, tgi: Client) -> None:
        with pytest.raises(ValidationError, match="watermark"):
            tgi.generate(PROMPT, watermark=True)
        with pytest.raises(ValidationError, match="context"):
            list(tgi.generate_stream(PROMPT, max_new_tokens=10**6))
