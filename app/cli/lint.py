"""`loramill lint`: the report on a local file of examples, without a server."""

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from app.cli.columns import align
from app.files import report_service
from app.files.report_schemas import FileReportOut
from core.settings import Settings
from core.text.files.file_type import HEAD_BYTES
from core.text.files.read import file_type_of
from core.text.lint.findings import LINES_NAMED, Finding
from core.text.lint.kinds import Severity
from core.text.lint.linter import Report
from core.text.lint.recommendation import Recommendation
from core.text.lint.statistics import Statistics
from core.text.render_settings import RenderFields

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}


def run_lint(
    settings: Settings, model: str, asked: RenderFields, file: Path, validation: Path | None, *, as_json: bool
) -> bool:
    """Lint the files and print the report; say whether there is no error in them.

    Raises:
        FileTypeUnclear: a file is none that can be read, or its name says otherwise.
        InvalidParameter: an option is malformed or does not fit the base model.
        ModelNotFound: the deployment does not train this base model.
        BaseModelNotReady: the base model is not imported yet.
    """
    with ExitStack() as opened:
        training, held_out = (
            None if path is None else _open(opened.enter_context(path.open("rb")), path) for path in (file, validation)
        )
        assert training is not None
        report = report_service.report(model, asked, training, held_out, settings=settings)
    if as_json:
        print(FileReportOut.of(report, file=str(file), model=model).model_dump_json(indent=2))
    else:
        Console(highlight=False).print(show(report, file.name, model), crop=False)
    return not report.count(Severity.ERROR)


def _open(content: BinaryIO, path: Path) -> report_service.Source:
    head = content.read(HEAD_BYTES)
    content.seek(0)
    return report_service.Source(content, file_type_of(path.name, head))


def show(report: Report, name: str, model: str) -> RenderableType:
    """Lay the report out for a terminal of any width."""
    errors, warnings, infos = map(report.count, Severity)
    counts = f"errors {errors}, warnings {warnings}, info {infos}"
    head = f"{name} for {model}: {report.statistics.examples:,} examples; {counts}"
    return Group(
        Text(head, style="bold"),
        *map(_finding, report.findings),
        *_statistics(report.statistics, report.max_length),
        *_recommendation(report.recommendation),
    )


def _finding(finding: Finding) -> RenderableType:
    where = "" if finding.file == "training_file" else " in the validation file"
    lines = ", ".join(map(str, finding.lines)) + (", …" if finding.count > LINES_NAMED else "")
    return Group(
        Text(f"\n{finding.severity} {finding.code}{where}", style=_STYLES[finding.severity]),
        _indented(finding.message),
        _indented(f"→ {finding.remedy}"),
        *([_indented(f"line{'s' * (finding.count > 1)} {lines}", "dim")] if finding.lines else []),
    )


def _statistics(statistics: Statistics, max_length: int) -> list[RenderableType]:
    if statistics.tokens is None or statistics.prompt_tokens is None or statistics.completion_tokens is None:
        return []
    named = {
        "whole": statistics.tokens,
        "prompt": statistics.prompt_tokens,
        "completion": statistics.completion_tokens,
    }
    header = ["tokens", "p5", "p25", "p50", "p75", "p95", "p99", "max"]
    rows = [
        [name, *(str(getattr(percentiles, column)) for column in header[1:])] for name, percentiles in named.items()
    ]
    trained = statistics.trained
    ratio = "none" if statistics.completion_prompt_ratio is None else f"{statistics.completion_prompt_ratio:.3g}"
    return [
        Text("\nlengths", style="bold"),
        Text(align([["", *header], *(["", *row] for row in rows)]), no_wrap=True, overflow="ignore"),
        Text("\nwhat would be trained on", style="bold"),
        _indented(
            f"{trained.examples:,} examples: {trained.prompt_tokens:,} prompt tokens, {trained.completion_tokens:,} "
            f"completion tokens; {trained.trained_tokens:,} tokens with a weight above 0. Completion tokens for each "
            f"prompt token: {ratio} at the median. Padding to {max_length:,} would add {trained.padding_tokens:,} "
            "tokens; Loramill does not pad."
        ),
    ]


def _recommendation(recommendation: Recommendation) -> list[RenderableType]:
    tried = recommendation.worth_trying
    also = "" if tried is None else f"; worth trying: {tried[0]:g} to {tried[1]:g}"
    return [
        Text(f"\nprompt_loss_weight {recommendation.prompt_loss_weight:g}{also}", style="bold"),
        _indented(recommendation.reason),
        *(_indented(source, "dim") for source in recommendation.sources),
    ]


def _indented(text: str, style: str = "") -> RenderableType:
    return Padding(Text(text, style=style), (0, 0, 0, 2), expand=False)
