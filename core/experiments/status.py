"""The statuses of an experiment. What it does while it runs, its runs and evaluations tell."""

from enum import StrEnum


class ExperimentStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
