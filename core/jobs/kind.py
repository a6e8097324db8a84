"""The kinds of jobs. Each has a waiting line of its own; how one moves and ends is alike for all."""

from enum import StrEnum


class JobKind(StrEnum):
    FINE_TUNING = "fine_tuning"
    EVALUATION = "evaluation"
