"""Wire types of previews: a job's own fields with examples to show, and their tokens."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from app.fine_tuning.schemas import JobFields
from app.http.field_types import Many, StoredText, described_by
from app.http.wire import Out
from core.text.preview import Preview
from core.text.rendering import Reason


class PreviewCreate(JobFields):
    """Asks to see examples as a job of these fields would train on them.

    The examples are those of ``training_file``, or written out in ``examples``, which count as lines from
    1. ``limit`` null means 10 of a file's, and all that are written out.
    """

    model_config = described_by(
        {"model": "smollm2-135m-instruct", "examples": [{"prompt": "The sky is", "completion": " blue."}]}
    )

    training_file: StoredText | None = None
    examples: Annotated[Many[Any], Field(min_length=1, max_length=100)] | None = None
    limit: int | None = Field(None, ge=1, le=100)
    after_line: int = Field(0, ge=0, lt=2**31)


class PreviewPart(Out):
    """Part of a preview, read from the dataclass of the same fields in ``core.text.preview``."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class PreviewTokenOut(PreviewPart):
    """``start`` and ``end`` count characters of the example's ``text``."""

    id: int
    text: str
    start: int
    end: int
    weight: float
    reason: Reason


class ExampleOut(PreviewPart):
    line: int
    text: str
    tokens: list[PreviewTokenOut]
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    dropped: int
    note: str | None


class PreviewTotalsOut(PreviewPart):
    examples: int
    left_out: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    dropped: int


class PreviewOut(Out):
    """Examples token by token; with ``has_more``, go on with ``after_line`` = the last one's line."""

    object: Literal["preview"]
    model: str
    examples: list[ExampleOut]
    totals: PreviewTotalsOut
    has_more: bool

    @classmethod
    def of(cls, model: str, preview: Preview) -> "PreviewOut":
        return cls(
            object="preview",
            model=model,
            examples=[ExampleOut.model_validate(example) for example in preview.examples],
            totals=PreviewTotalsOut.model_validate(preview.totals),
            has_more=preview.has_more,
        )
