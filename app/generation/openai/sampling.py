"""How OpenAI's protocol says that tokens are chosen, in an engine's terms."""

from typing import Final

from app.generation import constraints
from app.generation.openai.shared_schemas import SamplingFields
from core.errors import InvalidParameter
from core.serving.generation import Constraint, SamplingParams

TEMPERATURE: Final = 1.0  # OpenAI's default; SamplingParams has another


def sampling_of(
    asked: SamplingFields, *, max_tokens: int, top_logprobs: int = 0, prompt_logprobs: bool = False
) -> SamplingParams:
    """Read the fields that completions and chat completions share.

    Raises:
        InvalidParameter: what the answer must be is said twice, or cannot be read.
    """
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=TEMPERATURE if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p or 0.0,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty or 0.0,
        presence_penalty=asked.presence_penalty or 0.0,
        logit_bias={int(token_id): bias for token_id, bias in (asked.logit_bias or {}).items()},
        seed=asked.seed,
        stop=asked.stop,
        stop_token_ids=asked.stop_token_ids or (),
        ignore_end=bool(asked.ignore_eos),
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        constraint=_constraint_of(asked),
    )


def whose(caller: str, user: str | None) -> str:
    """Name who shares an engine as one: the caller, or one of the users that the caller tells apart."""
    return caller if user is None else f"{caller}/{user}"


def _constraint_of(asked: SamplingFields) -> Constraint | None:
    constraint = constraints.of_response_format(asked.response_format)
    if asked.regex is None:
        return constraint
    if constraint is not None:
        raise InvalidParameter("regex", "response_format says already what the answer must be; send only one of them")
    return constraints.of_regex(asked.regex)
