"""/v1/files/{id}/report: what is wrong with a file's examples, and what they hold, for one base model."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.files import report_service
from app.files.report_schemas import FileReportOut, FileReportQuery
from app.http.auth import require_caller
from app.http.deps import BlobsDep, DatabaseDep, SettingsDep
from app.http.route_errors import raises
from core.errors import BaseModelNotReady, BlobNotFound, FileExpired, FileNotStored, ModelNotFound, ParquetNotInstalled
from core.store.aliases.records import name_behind

router = APIRouter(prefix="/v1/files/{file_id}/report", tags=["files"], dependencies=[Depends(require_caller)])


@router.get("")
@raises(FileNotStored, FileExpired, BlobNotFound, ModelNotFound, BaseModelNotReady, ParquetNotInstalled)
def get_file_report(
    file_id: str,
    query: Annotated[FileReportQuery, Query()],
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> FileReportOut:
    """Lint a file as a job of these fields would train on it; one with the status "error" too.

    Each finding has a stable code, a severity, the first lines at fault, and a remedy. The whole file is read
    each time: some 2,500 short examples a second.
    """
    with ExitStack() as opened:
        with database.read() as session:
            sources = opened.enter_context(report_service.open_files(session, blobs, file_id, query))
            base_model = name_behind(session, query.model)
        found = report_service.report(base_model, query, *sources, settings=settings)
    return FileReportOut.of(found, file=file_id, model=base_model)
