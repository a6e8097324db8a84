"""OpenAI's wire types of files, with fields of our own: ``examples``, ``file_type``, ``format``, ``columns``."""

from typing import Literal

from pydantic import Field

from app.http.wire import Out, Query
from core.store.tables import FileRecord


class FilesQuery(Query):
    after: str | None = None
    limit: int = Field(10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class FileOut(Out):
    """A file, uploaded or a job's results. ``status`` "error" comes with the lines at fault in ``status_details``."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: str | None
    expires_at: int | None
    examples: int
    file_type: str  # jsonl, csv or parquet
    format: str | None  # prompt_completion, messages or columns
    columns: list[str] | None

    @classmethod
    def of(cls, record: FileRecord) -> "FileOut":
        return cls(
            id=record.id,
            object="file",
            bytes=record.bytes,
            created_at=record.created_at,
            filename=record.filename,
            purpose=record.purpose,
            status=record.status,
            status_details=record.status_details,
            expires_at=None,
            examples=record.examples,
            file_type=record.file_type,
            format=record.example_format,
            columns=record.columns,
        )
