"""OpenAI's wire types of text completions."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.schemas.wire import Body, Out, Stops, StoredText, only

MAX_PROMPTS = 64  # in one request, so that one client cannot fill an engine's queue alone
Prompt = str | tuple[int, ...]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _as_prompts(value: Any) -> tuple[Prompt, ...]:
    """Read the protocol's four shapes as what they mean: one prompt or several, each text or token ids."""
    prompts = value if isinstance(value, list) and not (value and _is_ids(value)) else [value]
    if not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
        raise PydanticCustomError(
            "prompt", "must be a text, a list of texts, a list of token ids, or a list of such lists"
        )
    if not prompts or not all(prompts):
        raise PydanticCustomError("prompt", "must not be empty")
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Annotated[Any, only(False)] = None


class CompletionCreate(Body):
    """Asks for the continuation of one or more prompts. ``top_k`` is an addition to OpenAI's fields."""

    model: StoredText
    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(_as_prompts), Field(max_length=MAX_PROMPTS)]
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[Stops, Field(max_length=4)] = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: Annotated[Any, only(1)] = None
    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    logprobs: Annotated[Any, only()] = None
    logit_bias: Annotated[Any, only({})] = None
    suffix: Annotated[Any, only("")] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    presence_penalty: Annotated[Any, only(0)] = None


class UsageOut(Out):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChoiceOut(Out):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None  # None: the stream goes on
    logprobs: None


class CompletionOut(Out):
    """A completion, or one chunk of its stream, which has the same shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut | None
