"""Which rows a request for an evaluation names: of an uploaded file, or of what a job holds out of its own."""

from typing import BinaryIO

from app.evaluations.schemas import EvaluationCreate
from app.fine_tuning.service import file_ref
from app.tokenizers import imported_of
from core.errors import ExampleInvalid, FileNotStored, InvalidParameter
from core.evaluations.choosing import Asked, Chosen, choose_rows
from core.jobs.resolve import rendering_of
from core.jobs.spec import JobSpec
from core.settings import Settings
from core.store import files, jobs
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.text.render_settings import RenderFields, TrainOn
from core.text.rendering import Renderer


def find_asked(session: Session, request: EvaluationCreate, settings: Settings, base_model: str) -> Asked:
    """Find the file that a request names, or that a job holds a part of.

    Raises:
        InvalidParameter: not exactly one is named, or it or a field does not fit.
        JobNotFound: there is no such job.
        BaseModelNotReady: the base model is not imported yet.
    """
    if (request.file is None) == (request.job is None):
        raise InvalidParameter("file", "give either a file or a job, whose held-out part is then asked")
    context_tokens = imported_of(settings, base_model).context_tokens
    if request.job is None:
        assert request.file is not None
        fields = RenderFields(
            prompt_format=request.prompt_format,
            max_length=request.max_length,
            train_on=_answers_of(session, request.file),
        )
        ref = file_ref(session, request.file, "file", fields, use="evaluated on")
        return Asked(ref, rendering_of(fields, base_model, context_tokens), None)
    if request.prompt_format is not None:
        raise InvalidParameter("prompt_format", "the job has one of its own, or needs none; leave this field out")
    spec = JobSpec.model_validate(jobs.get(session, request.job).spec)
    file = spec.validation_file or spec.training_file
    fields = RenderFields(
        prompt_format=spec.prompt_format,
        max_length=request.max_length or min(spec.max_length, context_tokens),
        train_on=_answers_of(session, file.id),
    )
    ref = file_ref(session, file.id, "job", fields, use="evaluated on")
    held_out_of = spec if spec.validation_file is None else None
    return Asked(ref, rendering_of(fields, base_model, context_tokens), held_out_of)


def choose_from(asked: Asked, param: str, renderer: Renderer, blobs: BlobStore, request: EvaluationCreate) -> Chosen:
    """Choose the rows.

    Args:
        param: the request's field that names where they are.

    Raises:
        InvalidParameter: fewer than two can be asked, or one cannot be rendered.
        BlobNotFound, BlobDamaged: the file's bytes are gone, or have changed on disk.
    """

    def opened() -> BinaryIO:
        with said_of(f"file {asked.file.id}"):
            return blobs.open(asked.file.sha256)

    try:
        chosen = choose_rows(
            asked, renderer, opened, request.max_rows, wants_labels="label_accuracy" in request.metrics
        )
    except ExampleInvalid as error:
        raise InvalidParameter(param, str(error)) from error
    if len(chosen.rows) < 2:
        limit = asked.rendering.max_length
        why = f"; {chosen.too_long} are longer than max_length, {limit}" if chosen.too_long else ""
        part = "it holds out" if asked.held_out_of is not None else "it has"
        raise InvalidParameter(
            param, f"an evaluation needs at least two rows, and {part} {len(chosen.rows)} that can be asked{why}"
        )
    return chosen


def _answers_of(session: Session, file_id: str) -> TrainOn:
    """Say which answers of a file's rows are asked: of a conversation the last one."""
    try:
        is_chat = files.get(session, file_id).example_format == "messages"
    except FileNotStored:
        return "all_assistant"  # that it is gone is told where it is read
    return "last_assistant" if is_chat else "all_assistant"
