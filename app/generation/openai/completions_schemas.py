"""OpenAI's wire types of text completions."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SkipValidation
from pydantic_core import PydanticCustomError

from app.generation.openai.shared_schemas import MAX_CHOICES, SamplingFields, UsageOut
from app.http.wire import Out, StoredText, only

MAX_PROMPTS: Final = 64  # in one request, so that one client cannot fill an engine's queue alone
Prompt = str | tuple[int, ...]


def _is_ids(value: Any) -> bool:
    """Say whether a value is a list of whole numbers from 0; looks at each of a million once, and quickly."""
    return isinstance(value, list) and set(map(type, value)) <= {int} and min(value, default=0) >= 0


def _as_prompts(value: Any) -> tuple[Prompt, ...]:
    """Read the protocol's four shapes as what they mean: one prompt or several, each text or token ids."""
    prompts = value if isinstance(value, list) and not (value and _is_ids(value)) else [value]
    if len(prompts) > MAX_PROMPTS:
        raise PydanticCustomError(
            "prompts",
            "there are {count} prompts; at most {most} are allowed in one request",
            {"count": len(prompts), "most": MAX_PROMPTS},
        )
    if not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
        raise PydanticCustomError(
            "prompt", "must be a text, a list of texts, a list of token ids, or a list of such lists"
        )
    if not prompts or not all(prompts):
        raise PydanticCustomError("prompt", "must not be empty")
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)


class CompletionCreate(SamplingFields):
    """Asks for the continuation of one or more prompts."""

    model: StoredText
    prompt: Annotated[SkipValidation[tuple[Prompt, ...]], BeforeValidator(_as_prompts)]
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)

    suffix: Annotated[Any, only("")] = None


class LogprobsOut(Out):
    """Tokens side by side with how likely they were and where in the text they stand.

    A prompt's first token has no logprob: nothing predicts it. Of a token that is part of a character, and of one
    that the text leaves out, the offset is where it would stand.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceOut(Out):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None  # None: the stream goes on
    logprobs: LogprobsOut | None


class CompletionOut(Out):
    """A completion, or one chunk of its stream, which has the same shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceOut]
    usage: UsageOut | None
