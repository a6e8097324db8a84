"""Wire types of rendering: what a model is fed for a prompt."""

from typing import Annotated, Literal

from pydantic import Field

from app.http.field_types import Many, StoredText, described_by
from app.http.wire import Body, Out
from core.serving.generation import Values
from core.text.files.examples import MAX_MESSAGES


class MessageIn(Body):
    role: Literal["system", "user", "assistant"]
    content: str


class RenderCreate(Body):
    """Asks for one prompt's rendering; exactly one of ``prompt``, ``variables`` and ``messages`` is wanted."""

    model_config = described_by({"model": "smollm2-135m-instruct", "prompt": "The sky is"})

    model: StoredText
    prompt: str | None = Field(None, min_length=1)
    variables: Values | None = None
    messages: Annotated[Many[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None


class RenderOut(Out):
    """``moved_whitespace`` stood at the end of the rendered prompt; trained completions begin with it instead."""

    object: Literal["render"]
    model: str
    text: str
    input_ids: list[int]
    moved_whitespace: str
    prompt_tokens: int
