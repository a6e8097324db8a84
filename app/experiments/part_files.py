"""The files that an experiment's rows lie in: those that it was given, or parts of the training file, each its own.

Parts are written as files like any other, so jobs and evaluations need to know of no parts, and whoever wants to see
what was trained on and what was judged by can read it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePath

from app.fine_tuning.renderers import renderer_of
from core.base_models.registry import Registry
from core.errors import ExampleInvalid, InvalidParameter
from core.evaluations.spec import EvaluationSpec
from core.experiments.parts import RowPart, refuse_few, refuse_overlap, rows_of, split
from core.jobs.spec import FileRef, JobSpec
from core.settings import Settings
from core.store import files
from core.store.blobs import Blob, BlobStore, said_of
from core.store.db import Database, Session
from core.store.files import NewFile
from core.store.references.rows import hold
from core.store.tables import FileRecord
from core.text.files.examples import Example, LineProblem
from core.text.files.jsonl import JSONL, line_of
from core.text.files.read import FILE_TYPES
from core.text.rendering import Renderer


@dataclass(frozen=True)
class Workplace:
    """What a plan is made with."""

    database: Database
    blobs: BlobStore
    settings: Settings
    registry: Registry


@dataclass(frozen=True)
class NamedFiles:
    """The files that were named. ``judge`` None: the held-out part of the job is judged by."""

    training: FileRef
    validation: FileRef | None
    judge: FileRef | None


@dataclass(frozen=True)
class PartIds:
    """The files that are used: named ones, or parts that were made for this experiment."""

    train: str
    choose: str | None
    judge: str
    made: tuple[str, ...]


def make_parts(sources: NamedFiles, spec: JobSpec, place: Workplace, now: int, *, chooses: bool) -> PartIds:
    """Say which file is trained on, chosen by and judged by; what no named file is for comes from the training file.

    Args:
        spec: of any arm, as all of them render prompts alike.
        chooses: something is chosen by rows before the judge has its say.

    Raises:
        InvalidParameter: a row cannot be rendered, there are too few, or rows to be judged by are among the others.
        BlobNotFound, BlobDamaged: a file's bytes are gone, or have changed on disk.
        BlobFreed: the same content was being freed at this moment.
        StorageFull: the disk did not take the parts.
    """
    renderer = renderer_of(place.settings, spec.base_model, spec)
    prompts = _read_prompts(place.blobs, sources.training, renderer, "job.training_file")
    judge = sources.judge or sources.validation
    choose = sources.validation if sources.judge is not None else None
    part_of = {line: RowPart.TRAIN for line, _ in prompts}
    if judge is None or (chooses and choose is None):
        part_of = dict(split(prompts, judges=judge is None, chooses=chooses and choose is None))
    if judge is not None:
        param = "job.validation_file" if sources.judge is None else "judge"
        judged = rows_of(_read_prompts(place.blobs, judge, renderer, param))
        refuse_few(judged, param)
        refuse_overlap(judged, rows_of(prompts), f"the training file, {sources.training.id}", param)
        if choose is not None:
            chosen_by = rows_of(_read_prompts(place.blobs, choose, renderer, "job.validation_file"))
            refuse_overlap(judged, chosen_by, f"the validation file, {choose.id}", param)
    made: dict[RowPart, str] = {}
    if set(part_of.values()) != {RowPart.TRAIN}:
        stored = _write_parts(place.blobs, sources.training, part_of)
        with place.database.write() as session:
            whole = files.get(session, sources.training.id)
            made = _record_parts(session, place.blobs, whole, stored, now)
    return PartIds(
        train=made.get(RowPart.TRAIN, sources.training.id),
        choose=made.get(RowPart.CHOOSE, None if choose is None else choose.id),
        judge=made[RowPart.JUDGE] if judge is None else judge.id,
        made=tuple(made.values()),
    )


def count_prompts(spec: EvaluationSpec, place: Workplace, param: str) -> int:
    """Say how many different prompts the rows have that an evaluation asks; raises as `make_parts`."""
    renderer = renderer_of(place.settings, spec.base_model, spec)
    rows = rows_of(_read_prompts(place.blobs, spec.file, renderer, param))
    asked = frozenset(spec.lines)
    return len({row.prompt for row in rows if row.line in asked})


def drop_files(database: Database, ids: tuple[str, ...]) -> None:
    """Delete the files that were made for an experiment which is not."""
    with database.write() as session:
        for file_id in ids:
            files.delete(session, file_id)


def _read_prompts(blobs: BlobStore, file: FileRef, renderer: Renderer, param: str) -> list[tuple[int, str]]:
    """Read each row's line and the text of its prompt.

    Raises:
        InvalidParameter: a row cannot be rendered.
        BlobNotFound, BlobDamaged: the file's bytes are gone, or have changed on disk.
    """
    try:
        return [(example.line, renderer.prompt_text(example)) for example in _examples(blobs, file)]
    except ExampleInvalid as error:
        raise InvalidParameter(param, str(error)) from error


def _write_parts(blobs: BlobStore, file: FileRef, part_of: Mapping[int, RowPart]) -> dict[RowPart, tuple[Blob, int]]:
    """Store a file's rows by part; give of each part what was stored and how many rows it has.

    Raises:
        StorageFull: the disk did not take them.
        BlobNotFound, BlobDamaged: as `_read_prompts`.
    """
    rows = dict.fromkeys(part_of.values(), 0)
    with ExitStack() as stack:
        writers = {part: stack.enter_context(blobs.write()) for part in rows}
        for example in _examples(blobs, file):
            part = part_of[example.line]
            writers[part].write(line_of(example))
            rows[part] += 1
        return {part: (writer.commit(), rows[part]) for part, writer in writers.items()}


def _record_parts(
    session: Session, blobs: BlobStore, whole: FileRecord, stored: Mapping[RowPart, tuple[Blob, int]], now: int
) -> dict[RowPart, str]:
    """Record the parts of a file as files of its caller, and give their ids.

    Raises:
        BlobFreed: the same content was being freed at this moment.
    """
    hold(session, blobs.exists, [blob.sha256 for blob, _ in stored.values()])
    ids = {}
    for part, (blob, rows) in stored.items():
        new = NewFile(
            caller=whole.caller,
            filename=f"{PurePath(whole.filename).stem}.{part}.jsonl",
            purpose=whole.purpose,
            blob=blob,
            file_type=JSONL.name,
            example_format=whole.example_format,
            columns=whole.columns,
            examples=rows,
        )
        ids[part] = files.create(session, new, now).id
    return ids


def _examples(blobs: BlobStore, file: FileRef) -> Iterator[Example]:
    with said_of(f"file {file.id}"):
        content = blobs.open(file.sha256)
    with content:
        for found in FILE_TYPES[file.file_type].read(content):
            if isinstance(found, LineProblem):  # of a file that was checked by an earlier version
                raise ExampleInvalid(str(found), (found.line,))
            yield found
