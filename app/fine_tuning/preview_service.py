"""What asking for a preview means: which examples are shown, as which job would train on them, what is refused."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from app.fine_tuning import service
from app.fine_tuning.preview_schemas import PreviewCreate
from app.fine_tuning.renderers import renderer_of
from core.base_models.registry import Registry
from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.jobs.spec import FileRef, JobSpec
from core.settings import Settings
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.text.files.examples import Columns, Example, LineProblem, format_of, refuse_deep
from core.text.files.jsonl import parse_line, too_long
from core.text.files.one_format import checked
from core.text.files.read import FILE_TYPES
from core.text.format_check import check_format
from core.text.preview import Preview, preview
from core.text.rendering import Renderer

SHOWN_OF_A_FILE: Final = 10


@dataclass(frozen=True)
class PreviewSource:
    """The job that would train on the examples, and those that were written out; None: its training file's."""

    spec: JobSpec
    written_out: tuple[Example, ...] | None


def find_source(session: Session, request: PreviewCreate, *, settings: Settings, registry: Registry) -> PreviewSource:
    """Give the examples that a request is about; what a job would be refused for is refused.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: an example or a file, or a field of the job, is at fault.
        BaseModelNotReady: the base model is not imported yet.
    """
    service.find_base(session, settings, registry, request.model)
    if (request.examples is None) == (request.training_file is None):
        raise InvalidParameter("training_file", "give either training_file or examples")
    examples: tuple[Example, ...] | None = None
    training: str | FileRef | None = request.training_file
    if request.examples is not None:
        examples = _written_out(request, request.examples, settings.max_line_bytes)
        training = _as_file(request.examples)
    assert training is not None
    spec = service.specify(session, request, training, settings=settings, registry=registry)
    return PreviewSource(spec, examples)


def show(request: PreviewCreate, source: PreviewSource, *, settings: Settings, blobs: BlobStore) -> Preview:
    """Render what was asked for. Needs no session: it can take seconds.

    Raises:
        InvalidParameter: an example cannot be rendered or is over-length, so that the job would fail.
        BaseModelNotReady: the base model is not imported yet, or its chat template is malformed.
        BlobNotFound: the file's bytes are gone.
        BlobDamaged: the file's bytes have changed on disk.
    """
    renderer = renderer_of(settings, source.spec.base_model, source.spec)
    if source.written_out is not None:
        return _show(request, source.written_out, request.limit or len(source.written_out), renderer)
    file = source.spec.training_file
    with said_of(f"file {file.id}"):
        stored = blobs.open(file.sha256)
    with stored as content:
        examples = checked(FILE_TYPES[file.file_type].read(content))
        return _show(request, examples, request.limit or SHOWN_OF_A_FILE, renderer)


def _show(request: PreviewCreate, examples: Iterable[Example], limit: int, renderer: Renderer) -> Preview:
    later = (example for example in examples if example.line > request.after_line)
    try:
        return preview(later, renderer, limit=limit)
    except (ExampleInvalid, ExampleOverLength) as error:
        place = "training_file" if request.examples is None else _place(error)
        raise InvalidParameter(place, str(error)) from error


def _written_out(request: PreviewCreate, values: Sequence[object], max_bytes: int) -> tuple[Example, ...]:
    """Read examples as if each stood on a line of a file."""
    try:
        examples = tuple(checked(_parse(value, line, max_bytes) for line, value in enumerate(values, start=1)))
    except ExampleInvalid as error:
        raise InvalidParameter(_place(error), str(error)) from error
    columns = [example.values for example in examples if isinstance(example, Columns)]
    common = [name for name in columns[0] if all(name in other for other in columns)] if columns else []
    check_format(request, format_of(examples[0]), common, name="examples")
    return examples


def _as_file(values: Sequence[object]) -> FileRef:
    """Name the file that would hold these examples, for the job that would train on it."""
    sha256 = hashlib.sha256(b"\n".join(map(orjson.dumps, values))).hexdigest()
    return FileRef(id="examples", sha256=sha256, examples=len(values), file_type="jsonl")


def _parse(value: object, line: int, max_bytes: int) -> Example | LineProblem:
    try:
        if isinstance(value, dict | list):
            refuse_deep(value, line)  # first, because writing it out recurses
        raw = orjson.dumps(value)
        return parse_line(raw, line) if len(raw) <= max_bytes else too_long(line, max_bytes)
    except LineProblem as problem:
        return problem


def _place(error: ExampleInvalid | ExampleOverLength) -> str:
    """Name an example that was written out as the request's author counts it."""
    return f"examples[{error.lines[0] - 1}]"
