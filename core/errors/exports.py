"""Errors of exports."""

from core.errors.training import TrainingError
from core.errors.tree import Conflict, NotFound


class ExportNotFound(NotFound):
    """No export has this id."""

    code = "export_not_found"
    kind = "export"


class ExportNotReady(Conflict):
    """What an export makes is asked for, and it is not there yet, or no more."""

    code = "export_not_ready"

    def __init__(self, export_id: str, why: str) -> None:
        super().__init__(export_id, why)

    def __str__(self) -> str:
        export_id, why = self.args
        return f"there is nothing of {export_id} to download: {why}"


class ExportDiffers(TrainingError):
    """What was written is not the adapter's: it differs by more than its rounding explains."""

    code = "export_differs"
