"""The kinds of a job's events, as the API serves them and the worker writes them.

An event is append-only and has a sequence number within its job, so that a reader can go on
from where it stopped. What the trainer says on its pipe is another protocol: ``worker.trainer_process.messages``.
"""

from enum import StrEnum


class EventType(StrEnum):
    MESSAGE = "message"
    METRICS = "metrics"


class EventLevel(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
