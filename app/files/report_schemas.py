"""Wire types of a file's report: what a lint found in it, in numbers and sentences."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, WithJsonSchema

from app.http.field_types import StoredText, read_prompt_format
from app.http.wire import Out, Query
from core.text.lint.findings import FileRole
from core.text.lint.kinds import Severity
from core.text.lint.linter import Report
from core.text.render_settings import PromptFormat, RenderFields

_TEXT_OR_NULL: Final[dict[str, Any]] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


class FileReportQuery(Query, RenderFields):
    """The fields of a job that decide what a file's examples become; ``prompt_format`` is its object as JSON."""

    model: StoredText
    validation_file: StoredText | None = None
    prompt_format: Annotated[
        PromptFormat | None,
        BeforeValidator(read_prompt_format),
        WithJsonSchema(_TEXT_OR_NULL),
    ] = None


class ReportPart(Out):
    """Part of a report, read from the dataclass of the same fields in ``core.text.lint``."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class FindingOut(ReportPart):
    """One kind of problem; ``lines`` are the first 20 of ``count``."""

    file: FileRole
    severity: Severity
    code: str
    message: str
    remedy: str
    count: int
    lines: list[int]
    numbers: dict[str, int]


class PercentilesOut(ReportPart):
    p5: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    max: int


class ReportTotalsOut(ReportPart):
    """Sums over the examples that would be trained on, as they are then."""

    examples: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    completion_prompt_ratio: float | None
    padding_tokens: int  # that padding each example to max_length would add


class LabelOut(ReportPart):
    text: str
    count: int


class StatisticsOut(ReportPart):
    """Percentiles and the median ratio are those of all examples, before any is left out or cut to fit."""

    examples: int
    tokens: PercentilesOut | None
    prompt_tokens: PercentilesOut | None
    completion_tokens: PercentilesOut | None
    completion_prompt_ratio: float | None
    trained: ReportTotalsOut
    labels: list[LabelOut] | None


class RecommendationOut(ReportPart):
    """``worth_trying`` is a range of other weights that helped on data like these."""

    prompt_loss_weight: float
    worth_trying: tuple[float, float] | None
    reason: str
    sources: list[str]


class SeverityCounts(Out):
    """How many findings there are of each severity."""

    error: int
    warning: int
    info: int


class FileReportOut(Out):
    object: Literal["file.report"]
    file: str
    model: str
    max_length: int
    severity: SeverityCounts
    examples: int
    findings: list[FindingOut]
    statistics: StatisticsOut
    recommendation: RecommendationOut

    @classmethod
    def of(cls, report: Report, *, file: str, model: str) -> "FileReportOut":
        return cls(
            object="file.report",
            file=file,
            model=model,
            max_length=report.max_length,
            severity=SeverityCounts(**{severity.value: report.count(severity) for severity in Severity}),
            examples=report.statistics.examples,
            findings=[FindingOut.model_validate(finding) for finding in report.findings],
            statistics=StatisticsOut.model_validate(report.statistics),
            recommendation=RecommendationOut.model_validate(report.recommendation),
        )
