"""What a lint finds: one finding for each kind of problem in a file, with how often, where, and what to do.

Knows no example: what is looked for is its callers', what each kind means ``core.text.lint.kinds``'.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from core.text.lint.kinds import Severity, kind_of

LINES_NAMED: Final = 20
FileRole = Literal["training_file", "validation_file"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem in one of the files.

    Attributes:
        count: examples, or lines, that have it.
        lines: the first 20 of their line numbers.
        numbers: what else was counted of them, such as ``tokens_lost``.
    """

    file: FileRole
    severity: Severity
    code: str
    message: str
    remedy: str
    count: int
    lines: tuple[int, ...]
    numbers: Mapping[str, int]


@dataclass(slots=True)
class _Tally:
    first: str
    count: int = 0
    lines: list[int] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)


class Findings:
    """Gathers one file's problems in memory that does not grow with the file."""

    def __init__(self, file: FileRole) -> None:
        self._file = file
        self._tallies: dict[str, _Tally] = {}

    def note(self, code: str, line: int, first: str = "", **numbers: int) -> None:
        """Count a problem; ``first`` tells of this line and is kept if the line is the first with it."""
        self.note_many(code, 1, (line,), first, **numbers)

    def note_many(self, code: str, count: int, lines: tuple[int, ...], first: str = "", **numbers: int) -> None:
        """Count a problem that ``count`` examples have, of which ``lines`` are the first."""
        tally = self._tallies.setdefault(code, _Tally(first))
        tally.count += count
        tally.lines += lines[: LINES_NAMED - len(tally.lines)]
        tally.numbers.update(numbers)

    def list_all(self) -> list[Finding]:
        """Give the findings, the most severe first, then the most frequent."""
        found = [self._finding(code, tally) for code, tally in self._tallies.items()]
        order = list(Severity)
        return sorted(found, key=lambda finding: (order.index(finding.severity), -finding.count))

    def _finding(self, code: str, tally: _Tally) -> Finding:
        kind = kind_of(code)
        words = {"count": tally.count, "examples": f"{tally.count:,} example{'s' * (tally.count != 1)}"}
        message = kind.message.format(first=tally.first, **words, **tally.numbers)
        return Finding(
            self._file,
            kind.severity,
            code,
            message,
            kind.remedy,
            tally.count,
            tuple(tally.lines),
            dict(tally.numbers),
        )
