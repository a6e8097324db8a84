"""What a job would take on this deployment: its tokens, memory, time and wait, and whether it fits.

Brings together what is counted, what earlier jobs took and what is known of the machine; the arithmetic is
``core.estimates.estimate`` and ``core.estimates.memory_plan``.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from app.fine_tuning.machines import KnownMachine, machine_of, shares_a_host
from app.fine_tuning.renderers import renderer_of
from app.fine_tuning.token_counts import StoredFile, count
from core.base_models.registry import BaseModelEntry, DType, folder_of, read_imported
from core.base_models.shape import ModelShape, read_shape
from core.errors import BaseModelInvalid, InvalidParameter, JobDoesNotFit
from core.errors.host_paths import without_host_paths
from core.estimates.estimate import (
    Basis,
    Estimate,
    ExampleCounts,
    Machine,
    Measured,
    PastRun,
    QueuePlace,
    RunSpeed,
    RunWork,
    Seconds,
    evaluated_after,
    seconds_of,
    speed_of_cores,
    speed_of_jobs,
    work_of,
)
from core.estimates.memory_plan import Memory, StepSizes, plan_memory
from core.jobs.spec import NOTHING_TO_SCORE, FileRef, JobSpec
from core.settings import Settings
from core.store import files, jobs
from core.store.blobs import BlobStore
from core.store.db import Session
from core.store.queue import waiting_line
from core.store.queue.control import is_pausing
from core.store.tables import JobRecord
from core.text.files.read import FILE_TYPES

PAST_RUNS: Final = 5  # finished jobs on one machine that an estimate of time learns from
_LOOKED_AT: Final = 20  # finished jobs that tell of machines

_NO_BASIS: Final = Basis(
    kind="unknown", jobs=(), flops_per_s=None, explanation="no job of this base model has finished yet"
)


def estimate(
    session: Session, spec: JobSpec, *, entry: BaseModelEntry, settings: Settings, blobs: BlobStore, now: int
) -> Estimate:
    """Say what a job would take if it were made now; up to a second of counting.

    Raises:
        InvalidParameter: the job is certain to fail, because an example cannot be used or none is left.
        BaseModelNotReady: the base model's tokenizer cannot be read.
        BlobNotFound: a file's bytes are gone.
    """
    counts = _count(session, spec, settings, blobs)
    total_steps = math.ceil(counts.examples / spec.batch_size) * spec.n_epochs
    evaluations = len(evaluated_after(total_steps, spec.n_evals))
    evaluated_tokens = counts.held_out_tokens * evaluations
    candidates = machines_of(settings, entry.dtype, past_runs(session, spec.base_model))
    machine, runs = candidates[0]
    problems: list[str] = []
    memory: Memory | None = None
    speed: RunSpeed | None = None
    seconds: Seconds | None = None
    try:
        shape = shape_of(settings, spec.base_model)
    except BaseModelInvalid as error:
        problems.append(without_host_paths(str(error)))
    else:
        if not counts.examples:
            problems.append("no example of the sample would be trained on, so neither time nor memory is known")
        else:
            machine, runs, memory = _choose(candidates, shape, spec, counts, total_steps)
        speed = _speed(shape, machine, runs, spec.batch_size * counts.tokens / max(1, counts.examples))
        if speed is None:
            problems.append("the time is not known before a job of this base model has finished here")
        if counts.examples:
            seconds = None if speed is None else seconds_of(_work(shape, spec, counts, evaluations), speed)
    if spec.quantization is not None and not machine.is_gpu:
        problems.append(f"quantization needs a CUDA GPU, and the machine ({machine.told.source}) has none")
    limit_bytes = machine.told.memory_bytes
    if limit_bytes is None:
        problems.append(f"whether the job fits is not known: {machine.told.source}")
    return Estimate(
        examples=counts.examples,
        held_out_examples=counts.held_out_examples,
        dropped_examples=counts.dropped_examples,
        untrained_examples=counts.untrained_examples,
        seen_tokens=counts.tokens * spec.n_epochs,
        trained_tokens=counts.trained_tokens * spec.n_epochs,
        evaluated_tokens=evaluated_tokens,
        steps=total_steps,
        sampled=counts.sampled,
        read_examples=counts.read_examples,
        seconds=seconds,
        peak_memory_bytes=None if memory is None else memory.peak_bytes,
        token_budget=None if memory is None else memory.token_budget,
        memory=memory,
        fits=None if memory is None or limit_bytes is None else memory.least_bytes <= limit_bytes,
        machine=machine.told,
        basis=_NO_BASIS if speed is None else speed.basis,
        queue=queue_end(session, now),
        problems=tuple(problems),
    )


def require_fit(found: Estimate) -> None:
    """Refuse a job that the machine cannot hold.

    Raises:
        JobDoesNotFit: even a micro-batch of the longest example alone needs more memory than there is.
    """
    if found.fits is False:
        assert found.memory is not None
        assert found.machine.memory_bytes is not None
        raise JobDoesNotFit(found.memory.least_parts, found.machine.memory_bytes, found.machine.source)


def past_runs(session: Session, base_model: str) -> list[PastRun]:
    """List the newest finished jobs of a base model that were measured, newest first."""
    runs = []
    for job in jobs.list_succeeded(session, base_model, limit=_LOOKED_AT):
        measured = Measured.of_result(job.result)
        if measured is not None:
            spec = JobSpec.model_validate(job.spec)
            runs.append(PastRun(job.id, spec.lora, measured, spec.n_evals))
    return runs


def machines_of(
    settings: Settings, dtype: DType, runs: Sequence[PastRun]
) -> list[tuple[KnownMachine, Sequence[PastRun]]]:
    """Give the machines on which a job may run, that of the newest run first, each with its own newest runs.

    Which workers live is not recorded. Where all processes share a host there is one machine, as it is now; else any
    on which a job has finished may take this one.
    """
    by_machine: dict[Machine, list[PastRun]] = {}
    for run in runs:
        by_machine.setdefault(run.measured.machine, []).append(run)
    groups: list[list[PastRun]] = list(by_machine.values()) or [[]]
    if shares_a_host(settings):
        groups = groups[:1]
    return [(machine_of(settings, dtype, own, unlike=len(groups)), own[:PAST_RUNS]) for own in groups]


def _choose(
    candidates: Sequence[tuple[KnownMachine, Sequence[PastRun]]],
    shape: ModelShape,
    spec: JobSpec,
    counts: ExampleCounts,
    steps: int,
) -> tuple[KnownMachine, Sequence[PastRun], Memory]:
    """Give the first machine that holds the job, or the largest where none does, with its runs and the job's memory."""
    planned = [(machine, runs, _memory(shape, spec, counts, steps, machine)) for machine, runs in candidates]
    for machine, runs, memory in planned:
        if machine.told.memory_bytes is None or memory.least_bytes <= machine.told.memory_bytes:
            return machine, runs, memory
    return max(planned, key=lambda one: one[0].told.memory_bytes or 0)


def queue_end(session: Session, now: int) -> QueuePlace:
    """Give the place that the next job gets, and the seconds until its turn; see `QueuePlace` for what it assumes."""
    waiting = waiting_line.sum_waiting(session)
    running = [_remaining_s(job, now) for job in waiting_line.list_running(session)]
    known = [seconds for seconds in running if seconds is not None]
    is_known = not waiting.without_estimate and len(known) == len(running)
    return QueuePlace(
        place=1 + waiting.jobs,
        seconds_ahead=_seconds_until_free(known or [0.0], waiting.seconds) if is_known else None,
    )


def _seconds_until_free(workers: Sequence[float], waiting_s: float) -> float:
    """Share what waits out among the workers as each becomes free, and give when all of it is done.

    Args:
        workers: after how many seconds each is free.
    """
    free_after = sorted(workers)
    for number, free_s in enumerate(free_after[1:], start=1):
        done_s = (waiting_s + sum(free_after[:number])) / number
        if done_s <= free_s:  # the next worker is free too late to share in it
            return done_s
    return (waiting_s + sum(free_after)) / len(free_after)


def _remaining_s(job: JobRecord, now: int) -> float | None:
    """Give the seconds until a running job's end; None where nothing tells."""
    if is_pausing(job):
        return 0.0
    eta_s = (job.progress or {}).get("eta_s")
    if eta_s is not None:
        return float(eta_s)
    if job.estimate_seconds is None:
        return None
    # between attempts a job may have waited or been paused for any time
    elapsed_s = now - job.started_at if job.token == 1 and job.started_at is not None else 0
    return max(0.0, job.estimate_seconds - elapsed_s)


def _count(session: Session, spec: JobSpec, settings: Settings, blobs: BlobStore) -> ExampleCounts:
    renderer = renderer_of(settings, spec.base_model, spec)
    training = _stored(session, spec.training_file, "training_file")
    validation = None if spec.validation_file is None else _stored(session, spec.validation_file, "validation_file")
    counts = count(spec, renderer, blobs, training, validation)
    if not counts.sampled and not counts.examples and not counts.held_out_examples:
        raise InvalidParameter(
            "training_file",
            f"no example is left to train on: {counts.dropped_examples:,} are over max_length and dropped, and "
            f"{counts.untrained_examples:,} have no weight above 0; raise max_length, or change the file",
        )
    if not counts.sampled and not counts.scored_tokens and spec.field_that_needs_scores is not None:
        raise InvalidParameter(spec.field_that_needs_scores, NOTHING_TO_SCORE)
    return counts


def _stored(session: Session, file: FileRef, param: str) -> StoredFile:
    record = files.get(session, file.id)
    return StoredFile(param, record.sha256, FILE_TYPES[record.file_type], record.bytes, record.examples)


def _memory(shape: ModelShape, spec: JobSpec, counts: ExampleCounts, steps: int, machine: KnownMachine) -> Memory:
    return plan_memory(
        shape,
        spec.lora,
        machine.dtype,
        StepSizes(
            longest_tokens=counts.longest_tokens,
            mean_tokens=counts.tokens / counts.examples,
            batch_size=spec.batch_size,
            steps=steps,
        ),
        available_bytes=machine.told.available_bytes or machine.told.memory_bytes,
        is_gpu=machine.is_gpu,
        has_kernels=machine.has_kernels,
        quantization=spec.quantization,
    )


def _work(shape: ModelShape, spec: JobSpec, counts: ExampleCounts, evaluations: int) -> RunWork:
    return work_of(
        shape,
        spec.lora,
        seen_tokens=counts.tokens * spec.n_epochs,
        trained_tokens=counts.trained_tokens * spec.n_epochs,
        evaluated_tokens=counts.held_out_tokens * evaluations,
        examples=counts.examples + counts.held_out_examples,
        evaluations=evaluations,
    )


def _speed(shape: ModelShape, machine: KnownMachine, runs: Sequence[PastRun], step_tokens: float) -> RunSpeed | None:
    learnt = speed_of_jobs(shape, runs)
    if learnt is None and machine.cores is not None:
        return speed_of_cores(
            shape, machine.dtype, machine.cores, step_tokens=step_tokens, has_kernels=machine.has_kernels
        )
    return learnt


def shape_of(settings: Settings, base_model: str) -> ModelShape:
    """Read the shape of a base model's layers, once.

    Raises:
        BaseModelInvalid: it cannot be told from the files.
    """
    folder = folder_of(settings.base_models_folder, base_model)
    return _read_shape(folder, read_imported(folder).fingerprint)


@lru_cache(maxsize=8)
def _read_shape(folder: Path, fingerprint: str) -> ModelShape:
    return read_shape(folder)  # a fingerprint that changes means another model
