"""Errors of experiments."""

from core.errors.tree import Conflict, NotFound


class ExperimentNotFound(NotFound):
    """No experiment has this id."""

    code = "experiment_not_found"
    kind = "experiment"


class ReportNotReady(Conflict):
    """An experiment has no report before its models were judged; some never have one."""

    code = "report_not_ready"

    def __init__(self, experiment_id: str, why: str) -> None:
        super().__init__(experiment_id, why)

    def __str__(self) -> str:
        return f"experiment {self.args[0]} has no report: {self.args[1]}"
