"""A request for tokens in the terms of vLLM's completions (0.32), and vLLM's refusals in ours.

Every parameter is sent, so that no default of the server's counts. What vLLM would change without a word is
refused here.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from app.engines.vllm.server import Refusal
from core.errors import GenerationFailed, InvalidParameter, ServiceError, UnsupportedParameter
from core.serving.generation import Constraint, SamplingParams
from core.text.tokenizer import TextTokenizer

# vllm/sampling_params.py: lower temperatures are raised to this one, larger biases are cut to this one.
LEAST_TEMPERATURE: Final = 0.01
LARGEST_BIAS: Final = 100.0

_STRUCTURED: Final = {"json_schema": "json", "regex": "regex"}
_FIELDS: Final = {"json_schema": "response_format", "json_object": "response_format", "regex": "regex"}
_OUR_NAMES: Final = {"logprobs": "top_logprobs"} | {
    name: name
    for name in ("stop", "stop_token_ids", "logit_bias", "seed", "temperature", "top_p", "top_k", "min_p", "max_tokens")
}


def completion_body(
    prompt_ids: Sequence[int], sampling: SamplingParams, tokenizer: TextTokenizer, *, caller: str
) -> dict[str, Any]:
    """Give the body of ``POST /v1/completions``, but for its ``model``.

    Raises:
        InvalidParameter: a value makes no sense for this base model.
        UnsupportedParameter: vLLM would put another value in its place.
    """
    _check(prompt_ids, sampling, tokenizer.vocab_size)
    _refuse_changed(sampling)
    body: dict[str, Any] = {
        "prompt": list(prompt_ids),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "echo": sampling.prompt_logprobs,  # the only way to a prompt's logprobs in a stream
        "logprobs": sampling.top_logprobs,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias.items()},
        "stop": list(sampling.stop),
        # which token ends an answer is for the base model's imported folder to say, not for the server's copy of it
        "ignore_eos": True,
        "stop_token_ids": sorted(_ends(sampling, tokenizer.end_ids)),
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.constraint is not None:
        body["structured_outputs"] = _structured(sampling.constraint)
    if caller:
        # keeps callers from each other's cached prompts, and callers' names from the server's memory
        body["cache_salt"] = hashlib.sha256(caller.encode()).hexdigest()
    return body


def error_of(refusal: Refusal, sampling: SamplingParams) -> ServiceError:
    """Say in our terms why vLLM did not answer a request."""
    if refusal.status not in (400, 422):
        return GenerationFailed(f"vLLM answered {refusal.status}: {refusal.message}")
    param = _OUR_NAMES.get(refusal.param or "")
    # what is wrong with a grammar is said without naming a field
    if sampling.constraint is not None and refusal.param in (None, "structured_outputs"):
        param = _FIELDS[sampling.constraint.kind]
    if param is None:
        return GenerationFailed(f"vLLM refused the request: {refusal.message}")
    return InvalidParameter(param, refusal.message)


def _check(prompt_ids: Sequence[int], sampling: SamplingParams, vocab_size: int) -> None:
    if "" in sampling.stop:
        raise InvalidParameter("stop", "a stop sequence cannot be empty")
    if not prompt_ids:
        raise InvalidParameter("prompt", "it has no tokens; give at least one id")
    named: dict[str, Iterable[int]] = {
        "prompt": prompt_ids,
        "stop_token_ids": sampling.stop_token_ids,
        "logit_bias": sampling.logit_bias,
    }
    for param, ids in named.items():
        unknown = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
        if unknown is not None:
            raise InvalidParameter(param, f"{unknown} is not a token of this model, which has {vocab_size}")


def _refuse_changed(sampling: SamplingParams) -> None:
    if not sampling.max_tokens:
        raise UnsupportedParameter("max_tokens", "vLLM generates a token behind each prompt that it scores; send 1")
    if 0 < sampling.temperature < LEAST_TEMPERATURE:
        raise UnsupportedParameter(
            "temperature", f"vLLM samples at {LEAST_TEMPERATURE} or more; send that, or 0 for the likeliest token"
        )
    large = next((token_id for token_id, bias in sampling.logit_bias.items() if abs(bias) > LARGEST_BIAS), None)
    if large is not None:
        raise UnsupportedParameter(
            "logit_bias", f"vLLM adds between -{LARGEST_BIAS:.0f} and {LARGEST_BIAS:.0f}; token {large} has more"
        )


def _ends(sampling: SamplingParams, end_ids: Collection[int]) -> set[int]:
    # nothing but the end may follow a whole constrained answer, so there it is never a token like others
    keeps_end = sampling.constraint is not None or not sampling.ignore_end
    return {*sampling.stop_token_ids, *(end_ids if keeps_end else ())}


def _structured(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json_object":
        return {"json_object": True}
    return {_STRUCTURED[constraint.kind]: constraint.value}
