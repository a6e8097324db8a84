"""huggingface_hub's InferenceClient, unmodified: `tests.on_stack.test_clients` runs the same against a real engine."""

import json
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, UnknownError, ValidationError

from tests.harness.servers.live_api import JSON_TOKENS, PROMPT, SCHEMA, LiveApi


class TestHuggingface:
    @pytest.fixture
    def hub(self, live_api: LiveApi) -> InferenceClient:
        return InferenceClient(base_url=live_api.url, api_key=live_api.api_key)

    def test_text_generation(self, hub: InferenceClient) -> None:
        text = hub.text_generation(PROMPT, max_new_tokens=3)
        answer = hub.text_generation(PROMPT, max_new_tokens=3, details=True, decoder_input_details=True, top_n_tokens=2)
        assert answer.generated_text == text
        assert answer.details is not None
        assert answer.details.generated_tokens == len(answer.details.tokens) <= 3
        assert len(answer.details.prefill) > 1
        assert [len(top) for top in answer.details.top_tokens or ()] == [2] * answer.details.generated_tokens

    def test_text_generation_of_a_fine_tuned_model(self, live_api: LiveApi, hub: InferenceClient) -> None:
        answer = hub.text_generation(PROMPT, adapter_id=live_api.tuned, max_new_tokens=3, details=True)
        assert answer.details is not None
        assert answer.details.finish_reason in ("length", "eos_token")

    def test_text_generation_as_a_stream(self, hub: InferenceClient) -> None:
        whole = hub.text_generation(PROMPT, max_new_tokens=3)
        assert "".join(hub.text_generation(PROMPT, max_new_tokens=3, stream=True)) == whole
        events = list(hub.text_generation(PROMPT, max_new_tokens=3, stream=True, details=True))
        assert events[-1].generated_text == whole
        assert events[-1].details is not None
        assert events[-1].details.input_length > 0
        assert [event.index for event in events] == list(range(1, len(events) + 1))

    @pytest.mark.parametrize(
        "grammar",
        [
            {"type": "json", "value": SCHEMA},
            {"type": "json_schema", "value": {"name": "reply", "schema": SCHEMA}},
        ],
    )
    def test_text_that_follows_a_schema(self, hub: InferenceClient, grammar: Any) -> None:
        text = hub.text_generation(PROMPT, grammar=grammar, max_new_tokens=JSON_TOKENS)
        assert json.loads(text)["answer"] in ("one", "two")

    def test_text_that_follows_an_expression(self, hub: InferenceClient) -> None:
        grammar: Any = {"type": "regex", "value": "one|two"}
        assert hub.text_generation(PROMPT, grammar=grammar, max_new_tokens=JSON_TOKENS) in ("one", "two")

    def test_chat_completion(self, live_api: LiveApi, hub: InferenceClient) -> None:
        messages: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPT}]
        for model in (None, live_api.tuned):
            answer = hub.chat_completion(
                messages, max_tokens=3, logprobs=True, top_logprobs=2, extra_body={"model": model} if model else None
            )
            assert answer.model == (model or live_api.base)
            assert answer.usage.completion_tokens <= 3
            assert answer.choices[0].logprobs is not None
            assert all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content)

    def test_chat_completion_as_a_stream(self, hub: InferenceClient) -> None:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        options: Any = {"include_usage": True}
        whole = hub.chat_completion(messages, max_tokens=3, temperature=0)
        *chunks, last = hub.chat_completion(messages, max_tokens=3, temperature=0, stream=True, stream_options=options)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert last.usage is not None
        assert last.usage.completion_tokens == whole.usage.completion_tokens

    def test_a_chat_answer_that_follows_a_schema(self, hub: InferenceClient) -> None:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
        answer = hub.chat_completion(
            [{"role": "user", "content": PROMPT}], response_format=wanted, max_tokens=JSON_TOKENS
        )
        assert json.loads(answer.choices[0].message.content or "")["answer"] in ("one", "two")

    def test_errors_are_the_clients_own(self, live_api: LiveApi, hub: InferenceClient) -> None:
        with pytest.raises(UnknownError, match="no such model: nobody"):
            hub.text_generation(PROMPT, adapter_id="nobody")
        with pytest.raises(ValidationError, match="typical_p"):
            hub.text_generation(PROMPT, typical_p=0.5)
        tool: Any = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(BadRequestError, match="tools"):
            hub.chat_completion([{"role": "user", "content": PROMPT}], tools=[tool])
        with pytest.raises(UnknownError, match="API key"):
            InferenceClient(base_url=live_api.url, api_key="wrong").text_generation(PROMPT)
