"""OpenAI's wire types of text completions."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SkipValidation, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.generation.openai.shared_schemas import MAX_CHOICES, SamplingFields, UsageOut
from app.http.field_types import StoredText, described_by, only, whole
from app.http.wire import Out

MAX_PROMPTS: Final = 64  # in one request, so that one client cannot fill an engine's queue alone
Prompt = str | tuple[int, ...]
_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
_IDS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPTS: Final[dict[str, Any]] = {
    "anyOf": [
        _TEXT,
        _IDS,
        {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1, "maxItems": MAX_PROMPTS},
    ]
}


def _as_ids(value: Any) -> tuple[int, ...] | None:
    """Read a list of whole numbers from 0, and look at each of a million only once or twice; None: it is no such."""
    if not isinstance(value, list):
        return None
    types = set(map(type, value))
    if float in types:
        value = list(map(whole, value))
        types = set(map(type, value))
    return tuple(value) if types <= {int} and min(value, default=0) >= 0 else None


def _as_prompts(value: Any) -> tuple[Prompt, ...]:
    """Read the protocol's four shapes as what they mean: one prompt or several, each text or token ids."""
    if ids := _as_ids(value):
        return (ids,)
    given = value if isinstance(value, list) else [value]
    if len(given) > MAX_PROMPTS:
        raise PydanticCustomError(
            "prompts",
            "there are {count} prompts; at most {most} are allowed in one request",
            {"count": len(given), "most": MAX_PROMPTS},
        )
    prompts = tuple(prompt if isinstance(prompt, str) else _as_ids(prompt) for prompt in given)
    if not prompts or not all(prompt is None or prompt for prompt in prompts):
        raise PydanticCustomError("prompt", "must not be empty")
    read = tuple(prompt for prompt in prompts if prompt is not None)
    if len(read) < len(prompts):
        raise PydanticCustomError(
            "prompt", "must be a text, a list of texts, a list of token ids, or a list of such lists"
        )
    return read


class CompletionCreate(SamplingFields):
    """Asks for the continuation of one or more prompts."""

    model_config = described_by({"model": "smollm2-135m-instruct", "prompt": "The sky is", "max_tokens": 8})

    model: StoredText
    prompt: Annotated[SkipValidation[tuple[Prompt, ...]], BeforeValidator(_as_prompts), WithJsonSchema(_PROMPTS)]
    max_tokens: int | None = Field(None, ge=0, lt=2**31)  # 0: only the prompt is scored
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
