"""Wire types of exports, which are our own."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from app.fine_tuning.schemas import JobErrorOut
from app.http.field_types import StoredText, described_by
from app.http.wire import Body, Out
from core.exports.report import BOUNDS, ExportReport
from core.exports.spec import ExportFormat, ExportSpec, GgufType, MergedDtype
from core.jobs.status import JobStatus
from core.serving.adapter_format import FileDigest
from core.store.tables import JobRecord


class ExportCreate(Body):
    """Asks for an export of a fine-tuned model."""

    model_config = described_by({"format": "gguf", "type": "q8_0"})

    format: ExportFormat
    dtype: MergedDtype | None = Field(None, description="Of the numbers of merged; null: bf16.")
    type: GgufType | None = Field(None, description="Of gguf; lora is the adapter alone. null: f16.")


class ExportAsked(ExportCreate):
    """The same with the model of the path, by which a repetition of a request is known."""

    model: StoredText


class ExportFileOut(Out):
    name: str
    bytes: int
    sha256: str


class ExportOut(Out):
    """An export. ``tried`` and ``text`` are null until it has succeeded."""

    id: str
    object: Literal["model.export"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: str
    model: str
    base_model: str
    adapter_sha256: str
    format: ExportFormat
    dtype: MergedDtype | None
    type: GgufType | None
    prompts: int  # that adapter and export are both fed
    bounds: dict[str, float]  # above which the export fails
    progress: dict[str, Any] | None
    queue_position: int | None  # 1: next; null: not queued
    waiting_reason: str | None
    error: JobErrorOut | None
    files: list[ExportFileOut]  # empty until it has succeeded, and once it was deleted
    tried: dict[str, Any] | None  # what trying the result against the adapter found
    text: str | None  # the same in a sentence

    @classmethod
    def of(cls, job: JobRecord, files: Mapping[str, FileDigest], *, queue_position: int | None) -> "ExportOut":
        spec = ExportSpec.model_validate(job.spec)
        report = None if job.result is None else ExportReport.model_validate(job.result)
        return cls(
            id=job.id,
            object="model.export",
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            status=job.status,
            model=spec.model,
            base_model=spec.base_model,
            adapter_sha256=spec.adapter.adapter_sha256,
            format=spec.format,
            dtype=spec.dtype,
            type=spec.type,
            prompts=len(spec.prompts),
            bounds=asdict(BOUNDS[spec.rounding]),
            progress=job.progress,
            queue_position=queue_position,
            waiting_reason=job.waiting_reason if job.status is JobStatus.QUEUED else None,
            error=JobErrorOut.of(job),
            files=[ExportFileOut(name=name, bytes=file.bytes, sha256=file.sha256) for name, file in files.items()],
            tried=None if report is None else report.model_dump(mode="json"),
            text=None if report is None else report.text,
        )
