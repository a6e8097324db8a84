"""What OpenAI's completions tell of the likelihood of tokens, on a scripted engine."""

import json

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import ApiHarness
from tests.app.generation.openai.asking import complete, events_of


class TestLogprobs:
    def test_tokens_stand_beside_their_logprobs_and_offsets(self, client: TestClient) -> None:
        logprobs = complete(client, logprobs=2).json()["choices"][0]["logprobs"]
        assert logprobs["tokens"] == [" one", " two", " three", "<|end|>"]
        assert logprobs["token_logprobs"] == [-0.5] * 4
        assert logprobs["top_logprobs"][0] == {" best": -0.25, " one": -0.5}
        assert logprobs["text_offset"] == [0, 4, 8, 14]

    def test_none_but_the_tokens_own_are_told_where_none_are_asked_for(self, client: TestClient) -> None:
        logprobs = complete(client, logprobs=0).json()["choices"][0]["logprobs"]
        assert logprobs["top_logprobs"][1] == {" two": -0.5}

    def test_an_echo_has_the_prompts_tokens_too(self, client: TestClient) -> None:
        (choice,) = complete(client, prompt="a b c", echo=True, logprobs=1, max_tokens=1).json()["choices"]
        assert choice["text"] == "a b c one"
        assert choice["logprobs"] == {
            "tokens": ["a", " b", " c", " one"],
            "token_logprobs": [None, -0.5, -0.5, -0.5],
            "top_logprobs": [
                None,
                {" best": -0.25, " b": -0.5},
                {" best": -0.25, " c": -0.5},
                {" best": -0.25, " one": -0.5},
            ],
            "text_offset": [0, 1, 3, 5],
        }

    def test_an_echo_of_ids_is_their_text(self, client: TestClient) -> None:
        (choice,) = complete(client, prompt=[5, 6], echo=True).json()["choices"]
        assert (choice["text"], choice["logprobs"]) == (" 5 6 one two three", None)

    def test_an_echo_of_text_costs_the_engine_nothing(self, client: TestClient, harness: ApiHarness) -> None:
        assert complete(client, echo=True, n=2).json()["choices"][1]["text"] == "a b one two three"
        assert not harness.engine.requests[0].sampling.prompt_logprobs

    @pytest.mark.parametrize("stream", [False, True])
    def test_with_no_tokens_asked_for_an_echo_only_scores_the_prompt(self, client: TestClient, stream: bool) -> None:
        answer = complete(client, prompt="a b c", echo=True, logprobs=0, max_tokens=0, stream=stream)
        told = json.loads(events_of(answer.text)[0]) if stream else answer.json()
        (choice,) = told["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("a b c", "length")
        assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]
        if not stream:
            assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (3, 0)

    @pytest.mark.parametrize("logprobs", [None, 1])
    def test_only_an_echo_can_have_no_tokens_asked_for(self, client: TestClient, logprobs: int | None) -> None:
        answer = complete(client, max_tokens=0, logprobs=logprobs)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "max_tokens"
        best = complete(client, max_tokens=0, echo=True, best_of=2)
        assert best.json()["error"]["param"] == "best_of"

    @pytest.mark.parametrize("echo", [False, True])
    def test_a_streams_chunks_have_what_the_whole_has(self, client: TestClient, echo: bool) -> None:
        (whole,) = complete(client, logprobs=1, echo=echo).json()["choices"]
        *chunks, _ = events_of(complete(client, logprobs=1, echo=echo, stream=True).text)
        choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
        assert "".join(choice["text"] for choice in choices) == whole["text"]
        joined = {key: [item for choice in choices for item in choice["logprobs"][key]] for key in whole["logprobs"]}
        assert joined == whole["logprobs"]
