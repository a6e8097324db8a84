"""OpenAI's wire types of chat completions."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.generation.openai.shared_schemas import SamplingFields, UsageOut
from app.http.field_types import Many, StoredText, described_by, only
from app.http.wire import Body, Out
from core.serving.generation import MAX_TOP_LOGPROBS
from core.text.files.examples import MAX_MESSAGES

MAX_PARTS: Final = 1024  # of one message
_CONTENT: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": MAX_PARTS,
        },
    ]
}


def _as_text(value: Any) -> str:
    """Read a message's content, a text or the parts of one, as one text."""
    parts = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise PydanticCustomError("content", "must be a text, or a list of parts of one")
    if len(parts) > MAX_PARTS:
        raise PydanticCustomError(
            "parts", "has {count} parts; at most {most} are allowed", {"count": len(parts), "most": MAX_PARTS}
        )
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise PydanticCustomError("content", "only parts of type text are supported")
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError("content", "a part of type text has a text, and nothing else")
    return "".join(part["text"] for part in parts)


class ChatMessage(Body):
    """One message. What an earlier answer's message has beside its text is taken back where it says nothing."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_as_text), WithJsonSchema(_CONTENT)]

    name: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None
    annotations: Annotated[Any, only([])] = None
    audio: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only()] = None


class ChatCreate(SamplingFields):
    """Asks for the next message of a conversation."""

    model_config = described_by(
        {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Name a colour."}],
            "max_tokens": 8,
            "temperature": 0,
        }
    )

    model: StoredText
    messages: Annotated[Many[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)  # the older name of the same
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: bool | None = None  # says nothing without tools
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    audio: Annotated[Any, only()] = None
    modalities: Annotated[Any, only(["text"])] = None
    prediction: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    verbosity: Annotated[Any, only("medium")] = None
    web_search_options: Annotated[Any, only()] = None
    store: Annotated[Any, only(False)] = None  # nothing is kept
    metadata: Annotated[Any, only({})] = None
    service_tier: Annotated[Any, only("auto", "default")] = None


class TopLogprobOut(Out):
    token: str
    bytes: list[int] | None  # None: the token is part of a character
    logprob: float


class TokenLogprobOut(TopLogprobOut):
    top_logprobs: list[TopLogprobOut]


class ChatLogprobsOut(Out):
    content: list[TokenLogprobOut]
    refusal: None


class MessageOut(Out):
    role: Literal["assistant"]
    content: str
    refusal: None


Finish = Literal["stop", "length"]


class ChatChoiceOut(Out):
    index: int
    message: MessageOut
    finish_reason: Finish
    logprobs: ChatLogprobsOut | None


class ChatOut(Out):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoiceOut]
    usage: UsageOut


class RoleDelta(Out):
    """The beginning of a message."""

    role: Literal["assistant"]
    content: str


class TextDelta(Out):
    content: str


class EndDelta(Out):
    """Nothing more: the message is whole."""


class ChatChunkChoiceOut(Out):
    index: int
    delta: RoleDelta | TextDelta | EndDelta
    finish_reason: Finish | None
    logprobs: ChatLogprobsOut | None


class ChatChunkOut(Out):
    """One chunk of a stream; the last can have the usage, and then has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoiceOut]
    usage: UsageOut | None
