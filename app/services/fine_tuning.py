"""What a fine-tuning request means: which model and files it names, when it is a repetition, what is refused."""

import hashlib
import json
from collections.abc import Collection
from typing import Final

from app.schemas.fine_tuning import JobCreate, JobFields
from app.services import hyperparameters
from core.base_models import BaseModelEntry, Registry, folder_of, read_imported
from core.errors import (
    BaseModelInvalid,
    BaseModelNotReady,
    FileNotStored,
    IdempotencyMismatch,
    InvalidParameter,
    ModelNotFound,
)
from core.jobs import FileRef, JobSpec
from core.settings import Settings
from core.store import files, jobs
from core.store.db import Session
from core.store.tables import FileRecord, FileStatus, JobRecord
from core.text.mustache import check_prompt_format

ROUTE: Final = "POST /v1/fine_tuning/jobs"
# The official client waits at most 8 s between two attempts, and sends no key of its own.
RETRY_WINDOW_S: Final = 10


def create(
    session: Session,
    request: JobCreate,
    *,
    settings: Settings,
    registry: Registry,
    caller: str,
    idempotency_key: str | None,
    is_retry: bool,
    now: int,
) -> JobRecord:
    """Record a queued job, or give the one that an earlier attempt of this request made.

    Args:
        is_retry: the client says that it repeats a request whose answer it did not get.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: a file, or how fields fit it, is at fault.
        IdempotencyMismatch: the key was used with another body.
        IdempotencyInProgress: the key is being used at this moment.
        BaseModelNotReady: the base model is not imported yet.
    """
    requested = request.model_dump(mode="json", exclude_unset=True)
    request_sha256 = hashlib.sha256(json.dumps(requested, sort_keys=True).encode()).hexdigest()
    earlier = _find_earlier(session, caller, request_sha256, idempotency_key, is_retry, now)
    if earlier is not None:
        return earlier
    job = jobs.create(
        session,
        caller=caller,
        spec=_specify(session, request, settings, registry),
        requested=requested,
        request_sha256=request_sha256,
        suffix=request.suffix,
        metadata=request.metadata,
        now=now,
    )
    if idempotency_key is not None:
        jobs.remember_idempotent(
            session,
            caller=caller,
            route=ROUTE,
            key=idempotency_key,
            body_sha256=request_sha256,
            job_id=job.id,
            now=now,
        )
    return job


def _specify(session: Session, request: JobCreate, settings: Settings, registry: Registry) -> JobSpec:
    base = find_base(settings, registry, request.model)
    training = _file_ref(find_file(session, request.training_file, "training_file", request))
    validation = (
        None
        if request.validation_file is None
        else _file_ref(find_file(session, request.validation_file, "validation_file", request))
    )
    return hyperparameters.resolve(
        request,
        base=base,
        context_tokens=context_tokens_of(settings, base.name),
        training=training,
        validation=validation,
    )


def find_base(settings: Settings, registry: Registry, name: str) -> BaseModelEntry:
    """Give the entry of a base model that this deployment trains and serves.

    Raises:
        ModelNotFound: there is no such base model here.
    """
    if name not in settings.base_models:
        raise ModelNotFound(name)
    return registry.get(name)


def _find_earlier(
    session: Session, caller: str, request_sha256: str, key: str | None, is_retry: bool, now: int
) -> JobRecord | None:
    if key is not None:
        used = jobs.find_idempotent(session, caller, ROUTE, key)
        if used is None:
            return None
        if used.body_sha256 != request_sha256:
            raise IdempotencyMismatch
        return jobs.get(session, used.job_id)
    if not is_retry:
        return None
    return jobs.find_recent_duplicate(session, caller, request_sha256, now - RETRY_WINDOW_S)


def find_file(session: Session, file_id: str, param: str, request: JobFields) -> FileRecord:
    """Give the record of a file that a job with these fields can train on or be scored on.

    Raises:
        InvalidParameter: there is no such file, its lines have problems, or the fields do not fit what it holds.
    """
    try:
        file = files.get(session, file_id)
    except FileNotStored as error:
        raise InvalidParameter(param, str(error)) from error
    if file.status is not FileStatus.PROCESSED or file.examples == 0:
        raise InvalidParameter(param, f"{file_id} cannot be trained on: {file.status_details}")
    check_format(request, file.example_format, file.columns or (), name=f"{file.id} ({param})")
    return file


def check_format(request: JobFields, example_format: str | None, columns: Collection[str], *, name: str) -> None:
    """Hold the shape of examples against what a job says about it, before a worker does so in vain.

    Args:
        columns: those that every example has.
        name: what to call the examples in a sentence.

    Raises:
        InvalidParameter: ``prompt_format`` or ``train_on`` does not fit.
    """
    if example_format == "columns":
        if request.prompt_format is None:
            raise InvalidParameter(
                "prompt_format", f"{name} holds columns, so a prompt format has to say what they become"
            )
        check_prompt_format(request.prompt_format, columns)
    elif request.prompt_format is not None:
        raise InvalidParameter("prompt_format", f"{name} holds {example_format}, which takes no prompt format")
    if request.train_on == "last_assistant" and example_format != "messages":
        raise InvalidParameter(
            "train_on",
            f'"last_assistant" chooses among the answers of a conversation, but {name} holds {example_format}; '
            "leave it out",
        )


def _file_ref(file: FileRecord) -> FileRef:
    return FileRef(id=file.id, sha256=file.sha256, examples=file.examples)


def context_tokens_of(settings: Settings, base_model: str) -> int:
    """Give how many tokens a base model's context holds.

    Raises:
        BaseModelNotReady: it is not imported yet.
    """
    try:
        return read_imported(folder_of(settings.base_models_folder, base_model)).context_tokens
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error
