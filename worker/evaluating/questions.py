"""Which questions an evaluation asks: every model each row that it is judged by, and those of the report on memory.

Rendered from the files that the specification names. Which of them are answered already is the store's to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from core.base_models.registry import folder_of
from core.errors import BlobDamaged, BlobNotFound
from core.evaluations.rows import EvaluationRow, general_rows, read_rows
from core.evaluations.spec import EvaluationSpec, TrainedRows
from core.jobs.spec import FileRef
from core.settings import Settings
from core.store.blobs import BlobStore, said_of
from core.text.files.one_format import checked
from core.text.files.read import FILE_TYPES
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.jobs.filling import require_base_model, require_pinned
from worker.trainer_process.host_faults import host_faults

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class AskedRow:
    """One row for one model, each by its place."""

    model_index: int
    number: int
    row: EvaluationRow


@dataclass(frozen=True)
class Questions:
    """All rows by their numbers, and whom each is asked, model by model."""

    rows: Mapping[int, EvaluationRow]
    asked: Sequence[AskedRow]


def list_questions(settings: Settings, blobs: BlobStore, spec: EvaluationSpec) -> Questions:
    """Render everything that is asked.

    Raises:
        HostUnfit: the base model is missing or damaged here, or the store lacks the file.
        BaseModelDiffers: the base model is another one than the evaluation was made for.
        BlobDamaged: the bytes of the file have changed in the store.
    """
    _, imported = require_base_model(settings.base_models_folder, spec.base_model)
    require_pinned(spec.base_model, spec.base_model_fingerprint, imported)
    tokenizer = TextTokenizer.from_folder(folder_of(settings.base_models_folder, spec.base_model))
    renderer = Renderer(tokenizer, spec)
    with host_faults("read the file"), said_of(f"file {spec.file.id}"):
        read = _read(blobs, spec.file, spec.lines, renderer)
    assert len(read) == len(spec.lines), "the same base model renders the same rows"
    rows = {number: read[line] for number, line in zip(spec.judged_rows, spec.lines, strict=True)}
    whom: dict[int, Sequence[int]] = dict.fromkeys(rows, range(len(spec.models)))
    if spec.general_text is not None:
        rows |= zip(spec.general_rows, general_rows(renderer, spec.context_tokens), strict=True)
        whom |= dict.fromkeys(spec.general_rows, range(len(spec.models)))
    for place, trained in enumerate(spec.trained):
        asked = sorted((spec.base_index, _index_of(spec, trained)))
        found = _trained(blobs, trained, tokenizer)
        for number, line in zip(spec.trained_rows(place), trained.lines, strict=True):
            if line in found:
                rows[number], whom[number] = found[line], asked
    questions = [
        AskedRow(index, number, row)
        for index in range(len(spec.models))
        for number, row in rows.items()
        if index in whom[number]
    ]
    return Questions(rows, questions)


def _index_of(spec: EvaluationSpec, trained: TrainedRows) -> int:
    return next(place for place, model in enumerate(spec.models) if model.name == trained.model)


def _trained(blobs: BlobStore, trained: TrainedRows, tokenizer: TextTokenizer) -> dict[int, EvaluationRow]:
    """Give rows that a model was trained on; none where their file is gone, which is no reason against the rest."""
    try:
        found = _read(blobs, trained.file, trained.lines, Renderer(tokenizer, trained.rendering))
    except (BlobNotFound, BlobDamaged) as problem:
        _log.warning("a model is not asked what it learnt by heart", model=trained.model, reason=str(problem))
        return {}
    return {line: replace(row, part="trained") for line, row in found.items()}


def _read(blobs: BlobStore, file: FileRef, lines: Sequence[int], renderer: Renderer) -> dict[int, EvaluationRow]:
    with blobs.open(file.sha256) as content:
        read = read_rows(checked(FILE_TYPES[file.file_type].read(content)), lines, renderer)
    return {row.line: row for row in read.rows}
