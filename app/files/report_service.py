"""What a file's report means: which files are read, and as which job's settings would render them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from app.files.report_schemas import FileReportQuery
from app.fine_tuning.renderers import renderer_for
from core.errors import FileNotStored, InvalidParameter
from core.settings import Settings
from core.store import files
from core.store.blobs import BlobStore, said_of
from core.store.db import Session
from core.store.tables import FileRecord, FileStatus
from core.text.files.file_type import FileType
from core.text.files.read import FILE_TYPES
from core.text.lint.linter import Report, lint
from core.text.render_settings import RenderFields


@dataclass(frozen=True)
class Source:
    """A file to read. ``content`` stands at its beginning."""

    content: BinaryIO
    type: FileType


@contextmanager
def open_files(
    session: Session, blobs: BlobStore, file_id: str, query: FileReportQuery
) -> Iterator[tuple[Source, Source | None]]:
    """Open a file and the validation file, whatever their status: one with problems is what a report is for.

    A type that only a process of its own may check is the exception: what brings its reader down must not reach
    this one.

    Raises:
        FileNotStored: there is no file of this id.
        InvalidParameter: there is no such validation file, or one of the files is Parquet with problems.
        BlobNotFound: a file's record is there, but its bytes are not.
        BlobDamaged: a file's bytes have changed on disk.
    """
    training = files.get(session, file_id)
    try:
        validation = None if query.validation_file is None else files.get(session, query.validation_file)
    except FileNotStored as error:
        raise InvalidParameter("validation_file", str(error)) from error
    with _open(blobs, training) as content:
        if validation is None:
            yield _source(content, training, "file_id"), None
            return
        with _open(blobs, validation) as other:
            yield _source(content, training, "file_id"), _source(other, validation, "validation_file")


def _open(blobs: BlobStore, file: FileRecord) -> BinaryIO:
    with said_of(f"file {file.id}"):
        return blobs.open(file.sha256)


def report(
    model: str, asked: RenderFields, training: Source, validation: Source | None, *, settings: Settings
) -> Report:
    """Lint the files as a job of these fields would render them. Needs no session: it can take a minute.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: a template of ``prompt_format`` is malformed, or ``max_length`` exceeds the context.
        BaseModelNotReady: the base model is not imported yet, or its chat template is malformed.
    """
    renderer = renderer_for(settings, model, asked)
    limit = settings.max_line_bytes
    return lint(
        training.type.read(training.content, limit),
        renderer,
        validation=None if validation is None else validation.type.read(validation.content, limit),
    )


def _source(content: BinaryIO, record: FileRecord, param: str) -> Source:
    file_type = FILE_TYPES[record.file_type]
    if file_type.needs_own_process and record.status is not FileStatus.PROCESSED:
        raise InvalidParameter(
            param,
            f"{record.id} is {file_type.title} with problems, of which there is no report: mend them "
            f"and upload it anew, or upload it as JSONL or CSV; {record.status_details}",
        )
    return Source(content, file_type)
