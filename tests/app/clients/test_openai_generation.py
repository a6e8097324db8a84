"""The official client's completions and chat: `tests.on_stack.test_clients` runs the same on a real engine."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.harness.servers.live_api import JSON_TOKENS, PROMPT, SCHEMA, LiveApi

MESSAGES: Any = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": PROMPT}]


class Reply(BaseModel):
    answer: Literal["one", "two"]


class TestOpenai:
    @pytest.fixture
    def ai(self, live_api: LiveApi) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{live_api.url}/v1", api_key=live_api.api_key, max_retries=0) as client:
            yield client

    @pytest.mark.parametrize("is_tuned", [False, True])
    def test_completions(self, live_api: LiveApi, ai: openai.OpenAI, is_tuned: bool) -> None:
        model = live_api.tuned if is_tuned else live_api.base
        completion = ai.completions.create(
            model=model, prompt=[PROMPT, PROMPT], n=2, max_tokens=3, seed=1, logprobs=2, extra_body={"top_k": 3}
        )
        assert completion.model == model
        assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
        assert completion.choices[0].text == completion.choices[2].text  # the same prompt and seed
        assert completion.usage is not None
        assert completion.usage.completion_tokens <= 12
        assert completion.usage.prompt_tokens_details is not None

    def test_an_echo_tells_how_likely_the_prompt_is(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        (choice,) = ai.completions.create(
            model=live_api.base, prompt=PROMPT, max_tokens=1, echo=True, logprobs=0
        ).choices
        assert choice.text.startswith(PROMPT)
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs[0] is None
        assert all(logprob <= 0 for logprob in choice.logprobs.token_logprobs[1:])
        assert len(choice.logprobs.tokens or ()) == len(choice.logprobs.text_offset or ()) > 2

    def test_a_prompt_is_scored_without_generating(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        scored, generated = (
            ai.completions.create(model=live_api.base, prompt=PROMPT, echo=True, logprobs=0, max_tokens=tokens).choices[
                0
            ]
            for tokens in (0, 1)
        )
        assert scored.text == PROMPT
        assert scored.logprobs is not None
        assert generated.logprobs is not None
        assert scored.logprobs.token_logprobs == (generated.logprobs.token_logprobs or [])[:-1]

    def test_streamed_completions(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        whole = ai.completions.create(model=live_api.base, prompt=PROMPT, max_tokens=3, temperature=0, logprobs=1)
        *chunks, last = ai.completions.create(
            model=live_api.base,
            prompt=PROMPT,
            max_tokens=3,
            temperature=0,
            logprobs=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert whole.choices[0].logprobs is not None
        told = [
            token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.tokens or ()
        ]
        assert told == whole.choices[0].logprobs.tokens
        assert last.usage is not None
        assert whole.usage is not None
        assert last.usage.completion_tokens == whole.usage.completion_tokens

    def test_chat(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        completion = ai.chat.completions.create(
            model=live_api.tuned,
            messages=MESSAGES,
            max_completion_tokens=3,
            n=2,
            logprobs=True,
            top_logprobs=2,
            temperature=0,
        )
        first, second = completion.choices
        assert first.message.content == second.message.content
        assert first.message.role == "assistant"
        assert first.logprobs is not None
        assert [len(token.top_logprobs) for token in first.logprobs.content or ()] == [2] * len(
            first.logprobs.content or ()
        )
        said: Any = first.message.to_dict()
        again = ai.chat.completions.create(
            model=live_api.base, messages=[*MESSAGES, said, {"role": "user", "content": "?"}], max_tokens=1
        )
        assert again.choices[0].finish_reason in ("length", "stop")

    def test_streamed_chat(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        def ask(**fields: Any) -> Any:
            return ai.chat.completions.create(
                model=live_api.base, messages=MESSAGES, max_tokens=3, temperature=0, **fields
            )

        whole = ask()
        *chunks, last = ask(stream=True, stream_options={"include_usage": True})
        assert len({(chunk.id, chunk.created) for chunk in (*chunks, last)}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert last.usage == whole.usage or last.usage.total_tokens == whole.usage.total_tokens

    def test_the_clients_own_reading_of_a_stream(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        with ai.chat.completions.stream(
            model=live_api.base, messages=MESSAGES, response_format=Reply, max_tokens=JSON_TOKENS
        ) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.parsed == Reply.model_validate_json(text)

    def test_an_answer_that_becomes_an_object(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        parsed = ai.chat.completions.parse(
            model=live_api.base, messages=MESSAGES, response_format=Reply, max_tokens=JSON_TOKENS
        )
        assert parsed.choices[0].message.parsed in (Reply(answer="one"), Reply(answer="two"))

    def test_completions_that_follow_a_schema_or_an_expression(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        by_schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}}
        told = ai.completions.create(model=live_api.base, prompt=PROMPT, max_tokens=JSON_TOKENS, extra_body=by_schema)
        assert Reply.model_validate_json(told.choices[0].text)
        told = ai.completions.create(
            model=live_api.base, prompt=PROMPT, max_tokens=JSON_TOKENS, extra_body={"regex": "one|two"}
        )
        assert told.choices[0].text in ("one", "two")

    def test_the_asynchronous_client(self, live_api: LiveApi) -> None:
        async def ask() -> str:
            async with openai.AsyncOpenAI(base_url=f"{live_api.url}/v1", api_key=live_api.api_key) as client:
                stream = await client.chat.completions.create(
                    model=live_api.base, messages=MESSAGES, max_tokens=3, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert asyncio.run(ask())

    def test_errors_have_their_classes_and_names(self, live_api: LiveApi, ai: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="no such model: gpt-5"):
            ai.chat.completions.create(model="gpt-5", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as refused:
            ai.chat.completions.create(model=live_api.base, messages=MESSAGES, reasoning_effort="high")
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "reasoning_effort")
        with pytest.raises(openai.BadRequestError) as refused:
            ai.completions.create(model=live_api.base, prompt=PROMPT, max_tokens=10**6)
        assert refused.value.code == "prompt_too_long"
