"""What generating a completion means, and the Engine protocol that every engine fulfils.

The API speaks this to an engine; how an engine batches, caches or loads adapters is its own.
"""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from core.jobs import Frozen
from core.text.examples import MAX_MESSAGES, LineProblem, refuse_deep


class FinishReason(StrEnum):
    LENGTH = "length"  # max_tokens were generated
    END = "end"  # the model closed its answer with an end token
    STOP = "stop"  # a stop sequence was met; the text ends before it


class SamplingParams(Frozen):
    """How the next token is chosen. ``temperature`` 0 is greedy and ignores the other three."""

    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)  # None: no limit
    seed: int | None = Field(None, ge=0, lt=2**63)  # None: fresh randomness
    stop: tuple[str, ...] = Field((), max_length=16)


def _refuse_deep_values(values: dict[str, Any]) -> dict[str, Any]:
    try:
        refuse_deep(values, line=1)
    except LineProblem as problem:
        raise PydanticCustomError(problem.code, problem.reason) from problem
    return values


Values = Annotated[dict[str, Any], AfterValidator(_refuse_deep_values)]  # by the names of a prompt format's columns


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


class Token(Frozen):
    id: int
    text: str
    logprob: float  # natural log, of the raw distribution before temperature
    special: bool


class Usage(Frozen):
    prompt_tokens: int
    completion_tokens: int


class Delta(Frozen):
    """What one step added. ``text`` can be shorter than the tokens' (a character or stop may be pending).

    The last delta, and only it, has ``finish_reason`` and ``usage``.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class EngineInfo(Frozen):
    """What an engine says of itself: which base model, how long its context is, and its load."""

    base_model: str
    fingerprint: str
    context_tokens: int
    device: str
    dtype: str
    resident_adapters: tuple[str, ...]
    resident_adapter_bytes: int
    waiting_requests: int
    running_requests: int


class Engine(Protocol):
    """Something that completes prompts of one base model and its adapters."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason; closing the generator cancels the request.

        Raises:
            InvalidParameter: ``variables`` or ``messages`` cannot be rendered for this model.
            PromptTooLong: prompt and max_tokens exceed the context.
            AdapterInvalid: the adapter's files do not verify.
            EngineBusy: the queue is full.
            EngineUnavailable: the engine cannot be reached.
            GenerationFailed: the engine failed while answering.
        """
        ...

    async def render(self, request: RenderRequest) -> Rendering:
        """Give what `generate` would feed for the prompt; same errors."""
        ...

    async def warm(self, adapter: str) -> None:
        """Load an adapter ahead of its first request; same errors as `generate`."""
        ...

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailable: it cannot be reached.
        """
        ...
