"""A job's events: their kinds, as the API serves them, and one that is yet to be written.

A stored event has a sequence number within its job, so that a reader can go on from where it
stopped. What the trainer says on its pipe is another protocol: ``worker.trainer_process.messages``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    MESSAGE = "message"
    METRICS = "metrics"


class EventLevel(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True)
class JobEvent:
    """An event before it has a number, an id and a time."""

    message: str
    level: EventLevel = EventLevel.INFO
    type: EventType = EventType.MESSAGE
    data: dict[str, Any] | None = None
