"""What a fine-tuning request means: which model and files it names, when it is a repetition, what is refused."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

import structlog

from app.fine_tuning import estimates
from app.fine_tuning.schemas import HyperparametersCreate, JobCreate, JobFields
from app.tokenizers import imported_of
from core.base_models.registry import BaseModelEntry, Registry
from core.errors import (
    BaseModelInvalid,
    BaseModelNotReady,
    BlobNotFound,
    FileNotStored,
    IdempotencyMismatch,
    InvalidParameter,
    ModelNotFound,
    TargetModulesUnmatched,
)
from core.estimates.estimate import Estimate
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import FileRef, JobSpec, TrainedAdapter
from core.settings import Settings
from core.store import adapters, files, jobs
from core.store.blobs import BlobStore
from core.store.db import Session
from core.store.jobs import IdempotencyKey, NewJob
from core.store.tables import FileStatus, JobRecord
from core.text.format_check import check_format
from core.text.render_settings import RenderFields

ROUTE: Final = "POST /v1/fine_tuning/jobs"
# The official client waits at most 8 s between two attempts, and sends no key of its own.
RETRY_WINDOW_S: Final = 10

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class RequestOrigin:
    """Who asks for a job, and what tells a repetition from a new request.

    ``is_retry``: the client says that it repeats a request whose answer it did not get.
    """

    caller: str
    idempotency_key: IdempotencyKey | None
    is_retry: bool

    @classmethod
    def of(cls, caller: str, key: str | None, *, is_retry: bool) -> "RequestOrigin":
        """Take the Idempotency-Key as the caller sent it; None: none was sent."""
        return cls(caller, None if key is None else IdempotencyKey(caller, ROUTE, key), is_retry)


@dataclass(frozen=True)
class Draft:
    """A job that could be made. ``estimate`` is None where none can be given, which is no reason against the job."""

    spec: JobSpec
    estimate: Estimate | None


def make_draft(
    session: Session, request: JobCreate, *, settings: Settings, registry: Registry, blobs: BlobStore, now: int
) -> Draft:
    """Resolve and estimate a job before it is made; reads the files, so no other writer may have to wait for it.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: a file, or how fields fit it, is at fault.
        JobDoesNotFit: the machine has too little memory for it.
        BaseModelNotReady: the base model is not imported yet.
    """
    spec = specify(session, request, request.training_file, settings=settings, registry=registry)
    entry = registry.get(spec.base_model)
    try:
        estimate = estimates.estimate(session, spec, entry=entry, settings=settings, blobs=blobs, now=now)
    except (BaseModelNotReady, BlobNotFound) as error:
        _log.warning("job made without an estimate", reason=str(error))
        return Draft(spec, None)
    estimates.require_fit(estimate)
    return Draft(spec, estimate)


def create(session: Session, request: JobCreate, draft: Draft, origin: RequestOrigin, *, now: int) -> JobRecord:
    """Record a queued job, or give the one that an earlier attempt of this request made.

    Raises:
        FileNotStored: a file was deleted since the draft.
        IdempotencyMismatch: the key was used with another body.
        IdempotencyInProgress: the key is being used at this moment.
    """
    earlier = find_earlier(session, request, origin, now)
    if earlier is not None:
        return earlier
    requested, request_sha256 = _requested(request)
    new = NewJob(
        caller=origin.caller,
        spec=draft.spec,
        requested=requested,
        request_sha256=request_sha256,
        suffix=request.suffix,
        metadata=request.metadata,
        estimate=draft.estimate,
    )
    job = jobs.create(session, new, now)
    if origin.idempotency_key is not None:
        jobs.remember_idempotent(session, origin.idempotency_key, body_sha256=request_sha256, job_id=job.id, now=now)
    return job


def find_earlier(session: Session, request: JobCreate, origin: RequestOrigin, now: int) -> JobRecord | None:
    """Find the job that an earlier attempt of this request made.

    Raises:
        IdempotencyMismatch: the key was used with another body.
    """
    request_sha256 = _requested(request)[1]
    if origin.idempotency_key is not None:
        used = jobs.find_idempotent(session, origin.idempotency_key)
        if used is None:
            return None
        if used.body_sha256 != request_sha256:
            raise IdempotencyMismatch
        return jobs.get(session, used.job_id)
    if not origin.is_retry:
        return None
    return jobs.find_recent_duplicate(session, origin.caller, request_sha256, now - RETRY_WINDOW_S)


def specify(
    session: Session, request: JobFields, training: str | FileRef, *, settings: Settings, registry: Registry
) -> JobSpec:
    """Resolve what a request leaves open. Jobs, estimates and previews are refused for their fields here alone.

    Args:
        training: the id of the training file, or examples that are as good as one.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: a file, or how fields fit it, is at fault.
        BaseModelNotReady: the base model is not imported yet.
    """
    base = find_base(settings, registry, request.model)
    if isinstance(training, str):
        training = _file_ref(session, training, "training_file", request)
    validation = request.validation_file
    scored = None if validation is None else _file_ref(session, validation, "validation_file", request)
    imported = imported_of(settings, base.name)
    continued = None if request.continue_from is None else _find_trained(session, request.continue_from, base.name)
    spec = resolve(
        request,
        hyperparameters_of(request),
        TrainableBase(base.name, imported.fingerprint, base.learning_rate, imported.context_tokens),
        training=training,
        validation=scored,
        continued=continued,
    )
    _check_targets(settings, spec)
    return spec


def _check_targets(settings: Settings, spec: JobSpec) -> None:
    try:
        shape = estimates.shape_of(settings, spec.base_model)
    except BaseModelInvalid:
        return  # an estimate says so; whether the modules are there is found out when the job runs
    try:
        shape.adapted(spec.lora)
    except TargetModulesUnmatched as error:
        raise InvalidParameter("lora.target_modules", str(error)) from error


def hyperparameters_of(request: JobFields) -> HyperparametersCreate:
    """Read the newer place, ``method``, or the older one; the protocol allows either.

    Raises:
        InvalidParameter: they are given in both.
    """
    supervised = request.method.supervised if request.method else None
    newer = supervised.hyperparameters if supervised else None
    if newer is not None and request.hyperparameters is not None:
        raise InvalidParameter("hyperparameters", "given here and in method.supervised; give them once")
    return newer or request.hyperparameters or HyperparametersCreate()


def _find_trained(session: Session, name: str, base_model: str) -> TrainedAdapter:
    trained = adapters.find_trained(session, name)
    if trained is None:
        raise InvalidParameter("continue_from", f"no fine-tuned model or checkpoint is called {name}")
    if trained.base_model != base_model:
        raise InvalidParameter(
            "continue_from",
            f"{name} is an adapter of {trained.base_model} and cannot be trained further on {base_model}; "
            "name its own base model in `model`",
        )
    return trained


def find_base(settings: Settings, registry: Registry, name: str) -> BaseModelEntry:
    """Give the entry of a base model that this deployment trains and serves.

    Raises:
        ModelNotFound: there is no such base model here.
    """
    if name not in settings.base_models:
        raise ModelNotFound(name)
    return registry.get(name)


def _file_ref(session: Session, file_id: str, param: str, request: RenderFields) -> FileRef:
    """Give a file that a job with these fields can train on or be scored on, as the job keeps it.

    Raises:
        InvalidParameter: there is no such file, its lines have problems, or the fields do not fit what it holds.
    """
    try:
        file = files.get(session, file_id)
    except FileNotStored as error:
        raise InvalidParameter(param, str(error)) from error
    if file.purpose == files.RESULTS_PURPOSE:
        raise InvalidParameter(
            param, f"{file_id} holds a job's results, not examples; name a file that was uploaded to be trained on"
        )
    if file.status is not FileStatus.PROCESSED or file.examples == 0:
        raise InvalidParameter(param, f"{file_id} cannot be trained on: {file.status_details}")
    check_format(request, file.example_format, file.columns or (), name=f"{file.id} ({param})")
    return FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type)


def _requested(request: JobCreate) -> tuple[dict[str, Any], str]:
    """Give the fields that were sent, and the digest by which a repetition is known."""
    requested = request.model_dump(mode="json", exclude_unset=True)
    return requested, hashlib.sha256(json.dumps(requested, sort_keys=True).encode()).hexdigest()
