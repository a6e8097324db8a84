"""What one of the doctor's checks found."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAIL = "fail"


@dataclass(frozen=True)
class CheckResult:
    """What a check found. ``remedy`` is None where there is nothing to mend."""

    status: Status
    found: str
    remedy: str | None = None
