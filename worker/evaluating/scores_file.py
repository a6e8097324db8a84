"""The scores of an evaluation as a CSV file, one line for each row and model."""

import csv
import io
from collections.abc import Sequence
from typing import Final

from core.evaluations.spec import EvaluationSpec
from core.store import evaluations
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.evaluations import AnsweredRow
from worker.jobs.blob_transfer import StoredResults

_AT_ONCE: Final = 200  # rows in memory


def store_scores(database: Database, blobs: BlobStore, job_id: str, spec: EvaluationSpec) -> StoredResults:
    """Write an evaluation's rows into the store; doing so again changes nothing.

    Raises:
        DatabaseUnavailable: the rows cannot be read, now.
        StorageFull: the store has no room.
        OSError: the store does not take it.
    """
    columns = ("row", "line", "cluster", "model", "tokens", "stopped", *spec.metrics, "answer", "reference", "prompt")
    with blobs.write() as writer:
        writer.write(_lines([columns]))
        for begin in range(0, len(spec.lines), _AT_ONCE):
            numbers = range(begin, min(begin + _AT_ONCE, len(spec.lines)))
            with database.read() as session:
                rows = evaluations.list_answered(session, job_id, numbers, len(spec.models))
            writer.write(_lines([line for row in rows for line in _lines_of(row, spec)]))
        return StoredResults(writer.commit(), columns)


def _lines_of(row: AnsweredRow, spec: EvaluationSpec) -> list[Sequence[object]]:
    return [
        (
            row.row,
            row.line,
            row.cluster,
            model.name,
            scored.tokens,
            scored.stopped,
            *(scored.scores[name] for name in spec.metrics),
            scored.answer,
            row.reference,
            row.prompt,
        )
        for model, scored in zip(spec.models, row.answers, strict=True)
        if scored is not None
    ]


def _lines(lines: Sequence[Sequence[object]]) -> bytes:
    """Write lines of CSV; what is not defined is an empty field.

    All texts are quoted: before Python 3.13 a carriage return alone is no reason to, and without quotes it ends a line.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(lines)
    return text.getvalue().encode()
