"""Lints training data: reads files of examples once, one example at a time, and reports on them.

How the report is shown is the caller's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from core.text.lint.file_lints import Found, TrainingLint, ValidationLint
from core.text.lint.findings import Finding
from core.text.lint.kinds import Severity
from core.text.lint.recommendation import Recommendation, recommend
from core.text.lint.statistics import Statistics
from core.text.rendering import Renderer


@dataclass(frozen=True, slots=True)
class Report:
    """What a lint found: the most severe first, the training file's before the validation file's."""

    max_length: int
    findings: tuple[Finding, ...]
    statistics: Statistics
    recommendation: Recommendation

    def count(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)


def lint(examples: Iterable[Found], renderer: Renderer, *, validation: Iterable[Found] | None = None) -> Report:
    """Lint a training file, and a validation file against it."""
    training = TrainingLint(renderer)
    training.read(examples)
    findings = training.findings.list_all()
    if validation is not None:
        held_out = ValidationLint(renderer, training.seen)
        held_out.read(validation)
        findings += held_out.findings.list_all()
    findings.sort(key=lambda finding: list(Severity).index(finding.severity))  # stable: keeps each file's order
    statistics = training.counts.finish()
    return Report(renderer.settings.max_length, tuple(findings), statistics, recommend(statistics))
