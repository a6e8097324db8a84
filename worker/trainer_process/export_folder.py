"""What lies in the run folder of an export: the worker's files for the exporter, and what that makes of them.

Torch-free, because the worker reads and writes it too. What the exporter says while it runs are the trainer's messages.
"""

import sys
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from core.exports.report import ExportReport
from core.exports.spec import ExportSpec
from core.values import Frozen
from worker.trainer_process.run_folder import SPEC, write_whole

COMMAND: Final = (sys.executable, "-m", "worker.exporter")
EXPORTED_ADAPTER: Final = "exported_adapter"  # the adapter's files, as they are stored
RESULT: Final = "result"  # what was made; a folder whose files are the export's
REPORT: Final = "report.json"  # written last, once the result is within its bounds


class ExportRun(Frozen):
    """All that an exporter is told. ``license``: the base model's; None: not known."""

    spec: ExportSpec
    base_model_folder: str
    license: str | None


def write_run(folder: Path, run: ExportRun) -> None:
    """Write what the exporter is told."""
    write_whole(folder / SPEC, run.model_dump_json(indent=1))


def read_run(folder: Path) -> ExportRun:
    """Read what `write_run` wrote."""
    return ExportRun.model_validate_json((folder / SPEC).read_bytes())


def write_report(folder: Path, report: ExportReport) -> None:
    """Write what was found; the result is whole by then."""
    write_whole(folder / REPORT, report.model_dump_json(indent=1))


def read_report(folder: Path) -> ExportReport | None:
    """Read what was found; None: the exporter did not come so far."""
    try:
        return ExportReport.model_validate_json((folder / REPORT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
