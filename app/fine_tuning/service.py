"""What a fine-tuning request means: which model and files it names, what is refused."""

from dataclasses import dataclass
from functools import partial

import structlog

from app.engines.routing import require_own_engine
from app.fine_tuning import estimates
from app.fine_tuning.repetition import RequestOrigin, record_once
from app.fine_tuning.schemas import HyperparametersCreate, JobCreate, JobFields
from app.tokenizers import imported_of
from core.base_models.registry import BaseModelEntry, Registry
from core.errors import (
    BaseModelInvalid,
    BaseModelNotReady,
    BlobNotFound,
    FileNotStored,
    InvalidParameter,
    ModelNotFound,
    TargetModulesUnmatched,
)
from core.estimates.estimate import Estimate
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import FileRef, JobSpec, TrainedAdapter
from core.scoring.registry import METRICS, SCORED_IN_TRAINING, require_metrics
from core.settings import Settings
from core.store import adapters, files
from core.store.aliases.records import name_behind
from core.store.blobs import BlobStore
from core.store.db import Session
from core.store.jobs import NewJob
from core.store.tables import FileStatus, JobRecord
from core.text.format_check import check_format
from core.text.render_settings import RenderFields

_log = structlog.stdlib.get_logger(__name__)


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
    return estimated(session, spec, registry.get(spec.base_model), settings=settings, blobs=blobs, now=now)


def estimated(
    session: Session, spec: JobSpec, entry: BaseModelEntry, *, settings: Settings, blobs: BlobStore, now: int
) -> Draft:
    """Estimate a job that is specified.

    Raises:
        InvalidParameter: a file, or how fields fit it, is at fault.
        JobDoesNotFit: the machine has too little memory for it.
    """
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
    make = partial(
        NewJob,
        origin.caller,
        draft.spec,
        suffix=request.suffix,
        metadata=request.metadata,
        estimate=draft.estimate,
    )
    return record_once(session, request, origin, now, make)


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
    base = find_base(session, settings, registry, request.model)
    if isinstance(training, str):
        training = file_ref(session, training, "training_file", request)
    validation = request.validation_file
    scored = None if validation is None else file_ref(session, validation, "validation_file", request)
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
    _check_evaluation(settings, spec)
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


def _check_evaluation(settings: Settings, spec: JobSpec) -> None:
    """Refuse metrics that there are not, an end without an engine, and a best checkpoint that nobody could tell."""
    asked = () if spec.evaluation is None else spec.evaluation.metrics
    if spec.evaluation is not None:
        require_metrics(asked, "evaluation.metrics")
        require_own_engine(settings, spec.base_model, "evaluation")
    best = spec.best_by
    if best is None:
        return
    if best not in asked:
        raise InvalidParameter("load_best_model_at_end", f"{best} is not among the metrics of evaluation; add it there")
    if best not in SCORED_IN_TRAINING or METRICS[best].better == "neither":
        raise InvalidParameter(
            "load_best_model_at_end", f"{best} is no metric by which a checkpoint is better; name another, or true"
        )


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
    trained = adapters.find_trained(session, name_behind(session, name))
    if trained is None:
        raise InvalidParameter("continue_from", f"no fine-tuned model or checkpoint is called {name}")
    if trained.base_model != base_model:
        raise InvalidParameter(
            "continue_from",
            f"{name} is an adapter of {trained.base_model} and cannot be trained further on {base_model}; "
            "name its own base model in `model`",
        )
    return trained


def find_base(session: Session, settings: Settings, registry: Registry, name: str) -> BaseModelEntry:
    """Give the entry of a base model that this deployment trains and serves, by its name or an alias.

    Raises:
        ModelNotFound: there is no such base model here.
    """
    behind = name if name in settings.base_models else name_behind(session, name)
    if behind not in settings.base_models:
        raise ModelNotFound(behind)
    return registry.get(behind)


def file_ref(session: Session, file_id: str, param: str, request: RenderFields, use: str = "trained on") -> FileRef:
    """Give a file that a job of any kind with these fields can read, as the job keeps it.

    Args:
        param: the request's field that names it.
        use: what is to be done with it, as it follows "cannot be".

    Raises:
        InvalidParameter: there is no such file, its lines have problems, or the fields do not fit what it holds.
    """
    try:
        file = files.get(session, file_id)
    except FileNotStored as error:
        raise InvalidParameter(param, str(error)) from error
    if file.purpose == files.RESULTS_PURPOSE:
        raise InvalidParameter(
            param, f"{file_id} holds a job's results, not examples; name a file that was uploaded as examples"
        )
    if file.status is not FileStatus.PROCESSED or file.examples == 0:
        raise InvalidParameter(param, f"{file_id} cannot be {use}: {file.status_details}")
    check_format(request, file.example_format, file.columns or (), name=f"{file.id} ({param})")
    return FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type)
