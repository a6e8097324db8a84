"""/v1/evaluations: have models answer the same rows and compare them; list, look up, cancel; read events and rows."""

import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query

from app.evaluations import rows_page, service
from app.evaluations.schemas import EvaluationCreate, EvaluationOut, EvaluationRowsOut, EvaluationRowsQuery
from app.fine_tuning.repetition import RequestOrigin, find_earlier, record_once
from app.fine_tuning.schemas import EventOut, EventsQuery
from app.http.auth import CallerDep, require_caller
from app.http.deps import BlobsDep, DatabaseDep, DoorbellDep, ReadSession, SettingsDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.json_body import JsonRoute
from app.http.route_errors import WRITING, raises
from app.http.wire import Page, page
from core.errors import (
    BaseModelNotReady,
    BaseModelNotServed,
    BlobDamaged,
    BlobNotFound,
    EvaluationNotFound,
    FileNotStored,
    IdempotencyInProgress,
    IdempotencyMismatch,
    JobNotFound,
)
from core.evaluations.spec import EvaluationSpec
from core.jobs.kind import JobKind
from core.store import events, jobs
from core.store.db import Session
from core.store.jobs import NewJob
from core.store.queue import control, waiting_line
from core.store.tables import JobRecord

router = APIRouter(
    prefix="/v1/evaluations",
    tags=["evaluations"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)

_KIND = JobKind.EVALUATION


def _out(session: Session, job: JobRecord) -> EvaluationOut:
    return EvaluationOut.of(job, queue_position=waiting_line.places(session, [job]).get(job.id))


@router.post(
    "",
    responses=leads_to(
        "evaluation_id",
        "get_evaluation",
        "cancel_evaluation",
        "list_evaluation_events",
        "list_evaluation_rows",
    ),
)
@raises(
    *WRITING,
    BaseModelNotReady,
    BaseModelNotServed,
    FileNotStored,
    JobNotFound,
    BlobNotFound,
    BlobDamaged,
    IdempotencyMismatch,
    IdempotencyInProgress,
)
def create_evaluation(
    request: EvaluationCreate,
    database: DatabaseDep,
    blobs: BlobsDep,
    background: BackgroundTasks,
    settings: SettingsDep,
    doorbell: DoorbellDep,
    caller: CallerDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0)] = 0,
) -> EvaluationOut:
    """Queue an evaluation: models of one base model answer the same rows, and each is compared with the first.

    Rows are those of a file, or what a job holds out; what a model was trained on is refused. The engine that serves
    the models answers and says how likely the references are. The same Idempotency-Key gives the same evaluation
    again.
    """
    now = int(time.time())
    origin = RequestOrigin.of(caller, idempotency_key, is_retry=x_stainless_retry_count > 0, kind=_KIND)
    with database.read() as session:
        job = find_earlier(session, request, origin, now)
        if job is not None:
            return _out(session, job)
        spec = service.specify(session, request, settings=settings, blobs=blobs)
    with database.write() as session:  # apart, because reading rows must not keep the workers' heartbeats waiting
        job = record_once(session, request, origin, now, partial(NewJob, caller, spec))
        created = _out(session, job)
    background.add_task(doorbell.notify, created.id)
    return created


@router.get("", responses=leads_to("evaluation_id", "get_evaluation", by=FIRST_ID))
def list_evaluations(
    session: ReadSession, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Page[EvaluationOut]:
    """List evaluations, newest first."""
    rows, has_more = jobs.list_page(session, after=after, limit=limit, kind=_KIND)
    places = waiting_line.places(session, rows)
    told = [EvaluationOut.of(row, queue_position=places.get(row.id)) for row in rows]
    return page(told, [row.id for row in rows], has_more)


@router.get("/{evaluation_id}")
@raises(EvaluationNotFound)
def get_evaluation(evaluation_id: str, database: DatabaseDep) -> EvaluationOut:
    """Look up an evaluation; once it has succeeded, with means, intervals, verdicts and gates in ``result``."""
    with database.read() as session:
        return _out(session, jobs.get(session, evaluation_id, _KIND))


@router.post("/{evaluation_id}/cancel")
@raises(*WRITING, EvaluationNotFound)
def cancel_evaluation(evaluation_id: str, database: DatabaseDep) -> EvaluationOut:
    """Cancel an evaluation: at once while it waits, within seconds while it runs. An ended one stays as it is."""

    def cancel(session: Session) -> EvaluationOut:
        return _out(session, control.cancel(session, evaluation_id, int(time.time()), _KIND))

    return database.write_freeing(cancel)


@router.get("/{evaluation_id}/events")
@raises(EvaluationNotFound)
def list_evaluation_events(
    evaluation_id: str, query: Annotated[EventsQuery, Query()], session: ReadSession
) -> Page[EventOut]:
    """List an evaluation's events, newest first."""
    jobs.get(session, evaluation_id, _KIND)
    rows, has_more = events.list_page(session, evaluation_id, after=query.after, limit=query.limit)
    return page([EventOut.of(row, "evaluation.event") for row in rows], [row.id for row in rows], has_more)


@router.get("/{evaluation_id}/rows")
@raises(EvaluationNotFound)
def list_evaluation_rows(
    evaluation_id: str, query: Annotated[EvaluationRowsQuery, Query()], session: ReadSession
) -> EvaluationRowsOut:
    """List an evaluation's rows with the answers and scores that there are so far.

    In the file's order; or by a metric of one model (``sort``, ``model``), or by how much higher it is than another
    model's (``against``). Rows without a score come last.
    """
    job = jobs.get(session, evaluation_id, _KIND)
    return rows_page.rows_page(session, evaluation_id, EvaluationSpec.model_validate(job.spec), query)
