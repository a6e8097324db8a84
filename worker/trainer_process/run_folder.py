"""What lies in a run folder, the folder of one attempt: the worker's files for the trainer; also its exit codes.

Torch-free, because the worker reads and writes it too. Where a worker keeps the run folders of its jobs is
``worker.jobs.run_folders``. What the trainer says while it runs is
``worker.trainer_process.messages``; what a checkpoint holds is ``worker.training.output.checkpoint``.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from core.base_models.registry import DType
from core.jobs.spec import JobSpec
from core.values import Frozen
from worker.trainer_process.messages import Finished

SPEC = "spec.json"
LOG = "trainer.log"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
RESULTS = "results.csv"
FINISHED = "finished.json"  # what the trainer said last; written when adapter and results are whole
TRAINING_FILE: Literal["training_file"] = "training_file"  # of which type, the job says
VALIDATION_FILE = "validation_file"
STOP = "stop"  # made by the worker: this run ends with a checkpoint, whatever other runs its trainer has
CONTINUE_FROM = "continue_from"  # folder of the adapter that a job goes on from, where it names one

EXIT_DONE = 0
EXIT_FAILED = 1  # the trainer said why in a Failed message, of at least one of its runs
EXIT_AGAIN = 75  # told to stop: it wrote checkpoints and can be started again (EX_TEMPFAIL of sysexits.h)
EXIT_PEER_LOST = 76  # one of several trainers of a run: another one ended, and that one's code says why


class RunSpec(Frozen):
    """All that a trainer is told. File names are relative to the run folder; other folders are absolute."""

    job_id: str
    token: int  # fencing token of the attempt
    job: JobSpec
    base_model_folder: str
    base_model_fingerprint: str
    base_model_dtype: DType = "auto"
    training_file: Literal["training_file"] = TRAINING_FILE
    validation_file: str | None  # None: hold a tenth of the training file's prompts out
    resume_from: tuple[str, ...] = ()  # folders of earlier attempts' checkpoints, newest first
    adapter_name: str
    token_budget: int | None = None  # of a micro-batch, at most: of the run that this one repeats; None: what fits
    kernels_folder: str | None = None  # where compiled kernels are kept; None: torch computes


def write_spec(run_folder: Path, spec: RunSpec) -> None:
    """Write ``spec.json`` so that a reader finds all of it or none."""
    write_whole(run_folder / SPEC, spec.model_dump_json(indent=1))


def write_finished(run_folder: Path, finished: Finished) -> None:
    """Write ``finished.json`` so that a reader finds all of it or none; a later attempt may publish by it."""
    write_whole(run_folder / FINISHED, finished.model_dump_json(indent=1))


def read_finished(run_folder: Path) -> Finished | None:
    """Read ``finished.json``; None where there is none, or not what `write_finished` writes."""
    try:
        return Finished.model_validate_json((run_folder / FINISHED).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_whole(path: Path, content: str) -> None:
    """Write a file so that a reader finds all of it or none."""
    pending = path.with_name(f"{path.name}.incoming")
    with pending.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)


def read_spec(run_folder: Path) -> RunSpec:
    """Read ``spec.json``.

    Raises:
        FileNotFoundError: the folder holds none.
        pydantic.ValidationError: it is not what `write_spec` writes.
    """
    return RunSpec.model_validate_json((run_folder / SPEC).read_bytes())
