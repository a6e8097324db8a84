"""What generating a completion means, and the Engine protocol that every engine fulfils.

The API speaks this to an engine; how an engine batches, caches or loads adapters is its own.
"""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from core.text.files.examples import MAX_COLUMNS, MAX_MESSAGES, LineProblem, refuse_deep
from core.values import Frozen


class FinishReason(StrEnum):
    LENGTH = "length"  # max_tokens were generated
    END = "end"  # the model closed its answer with an end token
    STOP = "stop"  # a stop sequence was met; the text ends before it


MAX_TOP_LOGPROBS = 20
MAX_CONSTRAINT_CHARS = 2**16


class Constraint(Frozen):
    """What an answer must be: JSON of a schema, any JSON object, or a text that a regular expression matches whole.

    ``value`` is the schema as JSON text, or the expression; empty for ``json_object``.
    """

    kind: Literal["json_schema", "json_object", "regex"]
    value: str = Field("", max_length=MAX_CONSTRAINT_CHARS)


class SamplingParams(Frozen):
    """How the next token is chosen. ``temperature`` 0 is greedy and ignores ``top_p``, ``top_k``, ``min_p``, ``seed``.

    In this order: penalties and ``logit_bias`` change the logits, ``constraint`` forbids tokens, the temperature
    scales, then ``top_k``, ``top_p`` and ``min_p`` leave some to be drawn from.
    """

    max_tokens: int = Field(16, ge=0)  # 0: only the prompt is scored
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)  # None: no limit
    min_p: float = Field(0.0, ge=0, le=1)  # least share of the likeliest token's probability
    repetition_penalty: float = Field(1.0, gt=0, le=10)  # as in CTRL (1909.05858), over prompt and answer
    frequency_penalty: float = Field(0.0, ge=-2, le=2)  # for each time a token stands in the answer
    presence_penalty: float = Field(0.0, ge=-2, le=2)  # once for a token that stands in the answer
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=1024)  # added, by token id
    seed: int | None = Field(None, ge=0, lt=2**63)  # None: fresh randomness
    stop: tuple[str, ...] = Field((), max_length=16)
    stop_token_ids: tuple[int, ...] = Field((), max_length=64)  # end the answer as the end token does
    ignore_end: bool = False  # the end token is a token like others
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)  # likeliest tokens that are told with each token
    prompt_logprobs: bool = False  # the first delta tells the prompt's tokens
    constraint: Constraint | None = None

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if not self.max_tokens and not self.prompt_logprobs:
            raise PydanticCustomError("max_tokens", "must be at least 1, unless the prompt's logprobs are asked for")
        return self


def _refuse_deep_values(values: dict[str, Any]) -> dict[str, Any]:
    if len(values) > MAX_COLUMNS:
        raise PydanticCustomError(
            "columns", "has {count} names; at most {most} are allowed", {"count": len(values), "most": MAX_COLUMNS}
        )
    try:
        refuse_deep(values, line=1)
    except LineProblem as problem:
        raise PydanticCustomError(problem.code, problem.reason) from problem
    return values


Values = Annotated[  # by the names of a prompt format's columns
    dict[str, Any],
    AfterValidator(_refuse_deep_values),
    WithJsonSchema({"type": "object", "additionalProperties": True, "maxProperties": MAX_COLUMNS}),
]


class Variables(Frozen):
    """A prompt as the values that the prompt format of the model's training is filled in with."""

    variables: Values


class Turn(Frozen):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(Frozen):
    """A prompt as the messages that the base model's chat template writes out."""

    messages: tuple[Turn, ...] = Field(min_length=1, max_length=MAX_MESSAGES)


PromptSource = str | Variables | Conversation


class RenderRequest(Frozen):
    """Asks what one model is fed for a prompt."""

    prompt: PromptSource
    adapter: str | None  # digest of an adapter's manifest; None: the base model


class Rendering(Frozen):
    """What a model is fed for a prompt. ``moved`` is white space at its end that is left to the completion."""

    text: str
    ids: tuple[int, ...]
    moved: str


class GenerationRequest(Frozen):
    """One prompt for one model. The engine renders and tokenises it; ids are fed as they are."""

    id: str
    prompt: PromptSource | tuple[int, ...]
    adapter: str | None  # digest of an adapter's manifest; None: the base model
    sampling: SamplingParams
    caller: str = ""  # whose request it is: callers share the engine fairly, and never each other's cached prompts


class Alternative(Frozen):
    """A token that could have stood in a token's place."""

    id: int
    text: str
    logprob: float
    special: bool


class Token(Frozen):
    id: int
    text: str
    logprob: float  # natural log, of the raw distribution before penalties and temperature
    special: bool
    top: tuple[Alternative, ...] = ()  # the likeliest, likeliest first, by the same distribution


class PromptToken(Frozen):
    id: int
    text: str
    logprob: float | None  # None: the first token, which nothing predicts
    special: bool
    top: tuple[Alternative, ...] = ()


class Usage(Frozen):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, whose keys and values an earlier request had left


class Delta(Frozen):
    """What one step added. ``text`` can be shorter than the tokens' (a character or stop may be pending).

    The last delta, and only it, has ``finish_reason`` and ``usage``; only the first can have ``prompt``.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt: tuple[PromptToken, ...] | None = None  # None: not asked for, or told before
    stop: str | int | None = None  # the stop sequence or stop token that was met


class EngineInfo(Frozen):
    """What an engine says of itself: which base model, how long its context is, and its load."""

    base_model: str
    fingerprint: str
    context_tokens: int
    device: str
    dtype: str
    max_batch: int
    resident_adapters: tuple[str, ...]
    resident_adapter_bytes: int
    loading_adapters: int
    waiting_requests: int
    waiting_tokens: int  # of prompts that wait
    running_requests: int
    kv_bytes: int  # reserved by requests that run
    kv_limit_bytes: int
    prefill_tokens_per_s: float | None  # as measured lately; None: nothing was measured yet
    decode_tokens_per_s: float | None


class Engine(Protocol):
    """Something that completes prompts of one base model and its adapters."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason; closing the generator cancels the request.

        Raises:
            InvalidParameter: ``variables`` or ``messages`` cannot be rendered for this model.
            PromptTooLong: prompt and max_tokens exceed the context.
            AdapterInvalid: the adapter's files do not verify.
            AdapterMismatch: the adapter was made for another base model, or would be fed otherwise than in training.
            EngineBusy: the queue is full.
            EngineUnavailable: the engine cannot be reached.
            EngineStarting: the engine is not ready yet.
            GenerationFailed: the engine failed while answering.
        """
        ...

    async def render(self, request: RenderRequest) -> Rendering:
        """Give what `generate` would feed for the prompt; same errors."""
        ...

    async def warm(self, adapter: str) -> None:
        """Load an adapter ahead of its first request; same errors as `generate`."""
        ...

    async def unload(self, adapter: str) -> None:
        """Forget an adapter once no request uses it any more; one that is not loaded is forgotten already."""
        ...

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailable: it cannot be reached.
            EngineStarting: it is not ready yet.
        """
        ...
