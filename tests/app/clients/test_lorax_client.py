"""lorax-client, unmodified: `tests.on_stack.test_clients` runs the same tests against a real engine."""

import asyncio
import json

import pytest
from lorax import AsyncClient, Client
from lorax.errors import NotFoundError, UnknownError, ValidationError

from tests.harness.servers.live_api import JSON_TOKENS, PROMPT, SCHEMA, LiveApi


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated:DeprecationWarning")  # the client's own
class TestLorax:
    @pytest.fixture
    def lorax(self, live_api: LiveApi) -> Client:
        return Client(live_api.url, headers=live_api.headers)

    @pytest.mark.parametrize("is_tuned", [False, True])
    def test_generate(self, live_api: LiveApi, lorax: Client, is_tuned: bool) -> None:
        adapter_id = live_api.tuned if is_tuned else None
        answer = lorax.generate(PROMPT, adapter_id=adapter_id, adapter_source="local", max_new_tokens=3)
        assert answer.details is not None
        assert answer.details.generated_tokens == len(answer.details.tokens) <= 3
        assert answer.details.prompt_tokens > 0
        assert answer.details.seed is None
        assert "".join(token.text for token in answer.details.tokens if not token.special) == answer.generated_text

    def test_generate_stream(self, live_api: LiveApi, lorax: Client) -> None:
        whole = lorax.generate(PROMPT, adapter_id=live_api.tuned, max_new_tokens=3)
        events = list(lorax.generate_stream(PROMPT, adapter_id=live_api.tuned, max_new_tokens=3))
        assert [event.generated_text for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].generated_text == whole.generated_text
        assert "".join(event.token.text for event in events if not event.token.special) == whole.generated_text
        assert whole.details is not None
        assert events[-1].details is not None
        assert events[-1].details.prompt_tokens == whole.details.prompt_tokens
        assert events[-1].details.finish_reason == whole.details.finish_reason

    def test_all_that_can_be_told_of_a_generation(self, lorax: Client) -> None:
        answer = lorax.generate(
            PROMPT,
            do_sample=True,
            temperature=0.8,
            top_k=40,
            top_p=0.9,
            repetition_penalty=1.1,
            best_of=2,
            stop_sequences=["never said"],
            truncate=4,
            return_full_text=True,
            decoder_input_details=True,
            return_k_alternatives=2,
            ignore_eos_token=True,
            max_new_tokens=3,
        )
        assert answer.generated_text.startswith(PROMPT)
        assert answer.details is not None
        assert answer.details.generated_tokens == 3
        assert answer.details.prefill[0].logprob is None
        assert answer.details.prompt_tokens == len(answer.details.prefill) <= 4
        assert [len(token.alternative_tokens or ()) for token in answer.details.tokens] == [2, 2, 2]
        others = answer.details.best_of_sequences or []
        assert len({answer.details.seed, None, *(other.seed for other in others)}) == 3

    def test_an_answer_that_follows_a_schema(self, lorax: Client) -> None:
        answer = lorax.generate(
            PROMPT, response_format={"type": "json_object", "schema": SCHEMA}, max_new_tokens=JSON_TOKENS
        )
        assert json.loads(answer.generated_text)["answer"] in ("one", "two")

    def test_the_asynchronous_client(self, live_api: LiveApi) -> None:
        async def ask() -> tuple[str, str | None]:
            client = AsyncClient(live_api.url, headers=live_api.headers)
            whole = await client.generate(PROMPT, max_new_tokens=3)
            events = [event async for event in client.generate_stream(PROMPT, max_new_tokens=3)]
            return whole.generated_text, events[-1].generated_text

        whole, streamed = asyncio.run(ask())
        assert whole == streamed

    def test_errors_are_the_clients_own(self, live_api: LiveApi, lorax: Client) -> None:
        with pytest.raises(NotFoundError, match="no such model: nobody"):
            lorax.generate(PROMPT, adapter_id="nobody")
        with pytest.raises(NotFoundError, match="no such model: nobody"):
            list(lorax.generate_stream(PROMPT, adapter_id="nobody"))
        with pytest.raises(ValidationError, match="typical_p"):
            lorax.generate(PROMPT, typical_p=0.5)
        with pytest.raises(ValidationError, match="context"):
            lorax.generate(PROMPT, max_new_tokens=10**6)
        with pytest.raises(UnknownError, match="API key"):
            Client(live_api.url).generate(PROMPT)
