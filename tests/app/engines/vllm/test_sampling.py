"""Requests in vLLM's terms, and its refusals in ours."""

from typing import Any

import pytest

from app.engines.vllm.sampling import completion_body, error_of
from app.engines.vllm.server import Refusal
from core.errors import GenerationFailed, InvalidParameter, UnsupportedParameter
from core.serving.generation import Constraint, SamplingParams
from core.text.tokenizer import TextTokenizer
from tests.app.engines.conftest import Deployment
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_END, VOCAB_SIZE

SCHEMA = Constraint(kind="json_schema", value='{"type": "string"}')


@pytest.fixture
def tokenizer(deployment: Deployment) -> TextTokenizer:
    return TextTokenizer.from_folder(deployment.base_folder)


def body_of(tokenizer: TextTokenizer, caller: str = "", **sampling: Any) -> dict[str, Any]:
    return completion_body([1, 2], SamplingParams.model_validate(sampling), tokenizer, caller=caller)


def test_every_parameter_is_sent_so_that_no_default_of_the_server_counts(tokenizer: TextTokenizer) -> None:
    body = body_of(tokenizer)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens")} == {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 16
    }  # fmt: skip
    assert {body[f"{kind}_penalty"] for kind in ("frequency", "presence")} == {0.0}
    assert body["repetition_penalty"] == 1.0
    assert body["logprobs"] == 0  # the chosen token's alone
    assert body["echo"] is False
    assert "seed" not in body
    assert "cache_salt" not in body
    assert "structured_outputs" not in body


def test_what_is_asked_for_is_sent(tokenizer: TextTokenizer) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 3,
        "repetition_penalty": 1.2,
    }
    asked |= {"frequency_penalty": 0.5, "presence_penalty": -0.5, "max_tokens": 7}
    body = body_of(tokenizer, **asked, stop=("a", "b"), logit_bias={5: -100.0}, top_logprobs=4, prompt_logprobs=True)
    assert {name: body[name] for name in asked} == asked
    assert (body["stop"], body["logit_bias"], body["logprobs"], body["echo"]) == (["a", "b"], {"5": -100.0}, 4, True)


def test_the_base_models_end_tokens_are_named_unless_they_are_to_be_ignored(tokenizer: TextTokenizer) -> None:
    ends = [END_OF_TEXT, TURN_END]
    assert body_of(tokenizer, stop_token_ids=(7,))["stop_token_ids"] == [7, *ends]
    assert body_of(tokenizer, ignore_end=True, stop_token_ids=(7,))["stop_token_ids"] == [7]
    # after a whole constrained answer there is nothing but the end
    assert body_of(tokenizer, ignore_end=True, constraint=SCHEMA)["stop_token_ids"] == ends
    assert body_of(tokenizer)["ignore_eos"] is True


@pytest.mark.parametrize(
    ("constraint", "sent"),
    [
        (SCHEMA, {"json": '{"type": "string"}'}),
        (Constraint(kind="regex", value="[ab]+"), {"regex": "[ab]+"}),
        (Constraint(kind="json_object"), {"json_object": True}),
    ],
)
def test_constraints_become_structured_outputs(
    tokenizer: TextTokenizer, constraint: Constraint, sent: dict[str, Any]
) -> None:
    assert body_of(tokenizer, constraint=constraint)["structured_outputs"] == sent


def test_callers_share_no_cached_prompts_and_are_not_named(tokenizer: TextTokenizer) -> None:
    salts = [body_of(tokenizer, caller=caller)["cache_salt"] for caller in ("alice", "bob", "alice")]
    assert salts[0] == salts[2] != salts[1]
    assert "alice" not in salts[0]


@pytest.mark.parametrize(
    ("sampling", "param", "kind"),
    [
        ({"temperature": 0.001}, "temperature", UnsupportedParameter),
        ({"max_tokens": 0, "prompt_logprobs": True}, "max_tokens", UnsupportedParameter),
        ({"logit_bias": {5: 101.0}}, "logit_bias", UnsupportedParameter),
        ({"stop": ("",)}, "stop", InvalidParameter),
        ({"stop_token_ids": (VOCAB_SIZE,)}, "stop_token_ids", InvalidParameter),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias", InvalidParameter),
    ],
)
def test_what_vllm_would_change_or_not_know_is_refused_by_name(
    tokenizer: TextTokenizer, sampling: dict[str, Any], param: str, kind: type[InvalidParameter]
) -> None:
    with pytest.raises(kind) as raised:
        body_of(tokenizer, **sampling)
    assert raised.value.param == param


@pytest.mark.parametrize("ids", [[], [VOCAB_SIZE], [-1]])
def test_a_prompt_that_is_no_tokens_is_refused(tokenizer: TextTokenizer, ids: list[int]) -> None:
    with pytest.raises(InvalidParameter, match=r"^prompt: "):
        completion_body(ids, SamplingParams.model_validate({}), tokenizer, caller="")


@pytest.mark.parametrize(
    ("refusal", "constraint", "param"),
    [
        (Refusal(400, "x", "logprobs"), None, "top_logprobs"),
        (Refusal(400, "x", "logit_bias"), SCHEMA, "logit_bias"),
        (Refusal(400, "Grammar error: x"), SCHEMA, "response_format"),
        (Refusal(400, "Grammar error: x"), Constraint(kind="regex", value="("), "regex"),
    ],
)
def test_a_refusal_is_the_fault_of_a_field(refusal: Refusal, constraint: Constraint | None, param: str) -> None:
    error = error_of(refusal, SamplingParams.model_validate({"constraint": constraint}))
    assert isinstance(error, InvalidParameter)
    assert error.param == param


@pytest.mark.parametrize("refusal", [Refusal(400, "why"), Refusal(500, "why", "logprobs"), Refusal(404, "why")])
def test_any_other_refusal_is_a_failure_that_keeps_its_reason(refusal: Refusal) -> None:
    error = error_of(refusal, SamplingParams.model_validate({}))
    assert isinstance(error, GenerationFailed)
    assert "why" in str(error)
