"""Chunks that are not what vLLM sends."""

from typing import Any

import pytest

from app.engines.vllm.answers import VllmAnswer
from core.errors import GenerationFailed
from core.serving.generation import SamplingParams
from core.text.tokenizer import TextTokenizer
from tests.app.engines.conftest import Deployment

LOGPROBS: dict[str, Any] = {
    "tokens": ["token_id:97"],
    "token_logprobs": [-0.5],
    "top_logprobs": [{"token_id:97": -0.5}],
}
CHOICE: dict[str, Any] = {"text": "a", "token_ids": [97], "logprobs": LOGPROBS}


@pytest.fixture
def answer(deployment: Deployment) -> VllmAnswer:
    params = SamplingParams.model_validate({})
    return VllmAnswer((1, 2), params, TextTokenizer.from_folder(deployment.base_folder))


def chunk(**changes: Any) -> dict[str, Any]:
    return {"choices": [CHOICE | changes]}


def test_a_chunk_of_several_tokens_is_one_delta(answer: VllmAnswer) -> None:
    twice = {name: values * 2 for name, values in LOGPROBS.items()}
    delta = answer.take(chunk(text="aa", token_ids=[97, 97], logprobs=twice))
    assert delta is not None
    assert (delta.text, [token.id for token in delta.tokens]) == ("aa", [97, 97])


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": [98]},
        {"token_ids": [97, 97]},
        {"logprobs": None},
        {"logprobs": LOGPROBS | {"tokens": ["a"]}},
        {"logprobs": LOGPROBS | {"top_logprobs": []}},
        {"logprobs": LOGPROBS | {"token_logprobs": [None]}},
        {"text": None},
        {"finish_reason": "abort"},
        {"finish_reason": "repetition"},
    ],
)
def test_a_chunk_that_contradicts_itself_is_a_failure(answer: VllmAnswer, changes: dict[str, Any]) -> None:
    with pytest.raises(GenerationFailed, match="vLLM"):
        answer.take(chunk(**changes))


def test_an_answer_without_a_reason_to_end_is_a_failure(answer: VllmAnswer) -> None:
    answer.take(chunk())
    with pytest.raises(GenerationFailed, match="ended its answer early"):
        answer.end()
