"""Where the run folders of a job's attempts lie, ``<runs>/<job id>/a<token>``: no two attempts write the same file.

What lies in one is ``worker.trainer_process.run_folder``.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from worker.trainer_process.export_folder import EXPORTED_ADAPTER, RESULT
from worker.trainer_process.run_folder import (
    ADAPTER,
    CHECKPOINTS,
    CONTINUE_FROM,
    FINISHED,
    RESULTS,
    TRAINING_FILE,
    VALIDATION_FILE,
)

_ATTEMPT: Final = re.compile(r"a(\d+)")
_STEP: Final = re.compile(r".*?(\d+)")


def make_run_folder(runs_folder: Path, job_id: str, token: int) -> Path:
    """Make the run folder of an attempt, and say where it is."""
    folder = runs_folder / job_id / f"a{token}"
    folder.mkdir(parents=True)
    return folder


def attempt_folders(runs_folder: Path, job_id: str) -> list[Path]:
    """Give the run folders of a job's attempts on this machine, newest first."""
    numbered = [
        (int(attempt[1]), path)
        for path in (runs_folder / job_id).glob("a*")
        if (attempt := _ATTEMPT.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]


def jobs_with_folders(runs_folder: Path) -> set[str]:
    """Give the ids of the jobs that have run folders on this machine."""
    return {path.parent.name for path in runs_folder.glob("*/a*") if _ATTEMPT.fullmatch(path.name)}


def earlier_checkpoints(folder: Path) -> tuple[str, ...]:
    """Give the checkpoint folders of the same job's earlier attempts, newest first.

    Incomplete ones are among them; the trainer takes the first that verifies.
    """
    numbered = []
    for checkpoint in folder.parent.glob(f"a*/{CHECKPOINTS}/*"):
        attempt = _ATTEMPT.fullmatch(checkpoint.parents[1].name)
        step = _STEP.fullmatch(checkpoint.name)
        if attempt and step and checkpoint.is_dir():
            numbered.append((int(attempt[1]), int(step[1]), str(checkpoint.absolute())))
    return tuple(path for _, _, path in sorted(numbered, reverse=True))


def drop_large_files(folder: Path) -> None:
    """Remove what an ended job's attempts no longer need; specifications and logs stay."""
    for attempt in folder.parent.glob("a*"):
        drop_inputs(attempt)
        for name in (CHECKPOINTS, ADAPTER):
            # another process may be at the same; what is left behind costs only space
            shutil.rmtree(attempt / name, ignore_errors=True)
        for name in (RESULTS, FINISHED):
            (attempt / name).unlink(missing_ok=True)
        drop_exported(attempt)


def drop_inputs(folder: Path) -> None:
    """Remove an ended attempt's own copies of what it read; the next attempt has others."""
    shutil.rmtree(folder / CONTINUE_FROM, ignore_errors=True)
    for name in (TRAINING_FILE, VALIDATION_FILE):
        (folder / name).unlink(missing_ok=True)


def drop_exported(folder: Path) -> None:
    """Remove what an attempt at an export read and made, whose bytes are in the store if it succeeded."""
    for name in (EXPORTED_ADAPTER, RESULT):
        shutil.rmtree(folder / name, ignore_errors=True)


def folders_to_free(runs_folder: Path) -> dict[str, Path]:
    """Give for each job that has large files on this machine one of its attempts' folders, by the job's id."""
    marks = (TRAINING_FILE, CHECKPOINTS, ADAPTER, EXPORTED_ADAPTER)  # one of these lies wherever anything large does
    return {path.parents[1].name: path.parent for mark in marks for path in runs_folder.glob(f"*/a*/{mark}")}
