"""Reads the manifest of a job: what its row, its adapter's, its experiment's and its trainer's record say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.errors import AdapterInvalid, BlobDamaged, BlobNotFound
from core.estimates.estimate import Measured
from core.jobs.attempt import Publication
from core.jobs.spec import JobSpec
from core.provenance.manifest import (
    HELD_OUT_RULE,
    ORDER_RULE,
    AdapterSection,
    BaseSection,
    ContinuedFrom,
    DataSection,
    JobManifest,
    Order,
    Parents,
    Results,
)
from core.provenance.origins import ExperimentPlace, settings_of
from core.provenance.record import WEIGHTS_SHA256, Provenance
from core.serving.adapter_format import MANIFEST_LIMIT_BYTES, WEIGHTS, parse_manifest
from core.store import adapters, jobs
from core.store.blobs import BlobStore
from core.store.db import Session
from core.store.tables import AdapterRecord, ExperimentRecord, ExperimentRunRecord, JobRecord


@dataclass(frozen=True)
class _Ending:
    """What a job has come to. ``adapter``: its name and its manifest's digest; None: it has none."""

    result: Mapping[str, Any] | None
    trained_on: str | None
    trained_tokens: int | None
    adapter: tuple[str, str] | None


def read(session: Session, job_id: str, *, about_to_end: Publication | None = None) -> JobManifest:
    """Give the manifest of a fine-tuning job, whatever has become of it.

    Args:
        about_to_end: with what a job is going to succeed that still runs.

    Raises:
        JobNotFound: there is none.
    """
    job = jobs.get(session, job_id)
    ending = _ending_of(session, job) if about_to_end is None else _ending_by(about_to_end)
    spec, told = JobSpec.model_validate(job.spec), Provenance.of_result(ending.result)
    origin = _first_of_reruns(session, job)
    return JobManifest(
        object="fine_tuning.job.manifest",
        id=job.id,
        status=job.status,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        base_model=BaseSection(
            name=spec.base_model,
            fingerprint=spec.base_model_fingerprint,
            tokenizer_sha256=None if told is None else told.tokenizer_sha256,
            chat_template_sha256=None if told is None else told.chat_template_sha256,
        ),
        data=_data(spec, told),
        settings=settings_of(spec, origin.requested, _find_place(session, origin.id)),
        stints=None if told is None else told.stints,
        measured=Measured.of_result(ending.result),
        parents=Parents(
            continue_from=_continued(session, spec),
            experiment=_find_place(session, job_id),
            rerun_of=job.rerun_of,
        ),
        adapter=_adapter(ending),
        results=_results(ending),
    )


def find_weights(manifest: JobManifest, blobs: BlobStore) -> str | None:
    """Give the digest of the weights that a job made; None: there are none, or nothing is left that tells.

    That of a job of an earlier version stands in its adapter's own manifest alone, which goes with the model.
    """
    if manifest.adapter is None or manifest.adapter.weights_sha256 is not None:
        return None if manifest.adapter is None else manifest.adapter.weights_sha256
    try:
        with blobs.open(manifest.adapter.manifest_sha256) as file:
            return parse_manifest(file.read(MANIFEST_LIMIT_BYTES)).files[WEIGHTS].sha256
    except (BlobNotFound, BlobDamaged, AdapterInvalid):
        return None


def _ending_of(session: Session, job: JobRecord) -> _Ending:
    adapter = session.scalar(select(AdapterRecord).where(AdapterRecord.job_id == job.id))
    named = None if adapter is None else (adapter.name, adapter.adapter_sha256)
    return _Ending(job.result, job.trained_on, job.trained_tokens, named)


def _ending_by(end: Publication) -> _Ending:
    return _Ending(end.result, end.trained_on, end.trained_tokens, (end.name, end.adapter.sha256))


def _first_of_reruns(session: Session, job: JobRecord) -> JobRecord:
    """Give the job that a rerun, or a rerun of one, made again: its request is what the settings come from."""
    while job.rerun_of is not None:
        job = jobs.get(session, job.rerun_of)
    return job


def _data(spec: JobSpec, told: Provenance | None) -> DataSection:
    return DataSection(
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        order=Order(
            rule=None if told is None else ORDER_RULE,
            version=None if told is None else told.planner_version,
            seed=spec.seed,
            held_out_rule=None if told is None or told.held_out_version is None else HELD_OUT_RULE,
            held_out_version=None if told is None else told.held_out_version,
        ),
        rendered=None if told is None else told.training,
        rendered_held_out=None if told is None else told.held_out,
    )


def _find_place(session: Session, job_id: str) -> ExperimentPlace | None:
    run = session.scalar(select(ExperimentRunRecord).where(ExperimentRunRecord.job_id == job_id))
    if run is None:
        return None
    plan: dict[str, Any] = session.get_one(ExperimentRecord, run.experiment_id).plan
    name = plan["arms"][run.arm]["name"]
    return ExperimentPlace(id=run.experiment_id, arm=name, seed=run.seed, rate_factor=run.rate_factor)


def _continued(session: Session, spec: JobSpec) -> ContinuedFrom | None:
    if spec.continue_from is None:
        return None
    return ContinuedFrom(**dict(spec.continue_from), job=adapters.find_job_id(session, spec.continue_from.name))


def _adapter(ending: _Ending) -> AdapterSection | None:
    if ending.adapter is None:
        return None
    (name, manifest_sha256), result = ending.adapter, ending.result or {}
    return AdapterSection(
        name=name,
        manifest_sha256=manifest_sha256,
        weights_sha256=result.get(WEIGHTS_SHA256),
        step=result.get("adapter_step"),
    )


def _results(ending: _Ending) -> Results | None:
    if ending.result is None or ending.trained_on is None:
        return None
    return Results(
        trained_on=ending.trained_on,
        trained_tokens=ending.trained_tokens or 0,
        steps=ending.result.get("steps"),
        metrics=ending.result.get("metrics") or {},
        evaluation_id=ending.result.get("evaluation_id"),
    )
