"""The kinds of jobs. Each has a waiting line of its own; how one moves and ends is alike for all.

An import has no line: it has ended when it is recorded, and is what an adapter that no job trained came from.
"""

from enum import StrEnum


class JobKind(StrEnum):
    FINE_TUNING = "fine_tuning"
    EVALUATION = "evaluation"
    EXPORT = "export"
    IMPORT = "import"
