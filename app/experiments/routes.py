"""/v1/experiments: train the same rows in several ways and compare them; estimate, list, look up, cancel, report."""

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query
from fastapi.responses import Response

from app.experiments import reports, service
from app.experiments.part_files import Workplace, drop_files
from app.experiments.planning import make_plan
from app.experiments.schemas import ExperimentCreate, ExperimentEstimateOut, ExperimentOut, PlotQuery, ReportOut
from app.http.auth import CallerDep, require_caller
from app.http.deps import BlobsDep, DatabaseDep, DoorbellDep, ReadSession, RegistryDep, SettingsDep
from app.http.description.links import FIRST_ID, leads_to
from app.http.json_body import JsonRoute
from app.http.route_errors import WRITING, raises
from app.http.wire import Page, page
from core.dispatch.doorbell import Notifier
from core.errors import (
    BaseModelNotReady,
    BlobDamaged,
    BlobNotFound,
    ExperimentNotFound,
    FileNotStored,
    IdempotencyInProgress,
    IdempotencyMismatch,
    ModelNotFound,
    ReportNotReady,
)
from core.store.db import Session
from core.store.experiments import records
from core.store.experiments.advancing import recorded_of
from core.store.tables import ExperimentRecord

router = APIRouter(
    prefix="/v1/experiments",
    tags=["experiments"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)

_REFUSALS: Final = (*WRITING, ModelNotFound, BaseModelNotReady, FileNotStored, BlobNotFound, BlobDamaged)
_CSV: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
_SVG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}}


def _out(session: Session, record: ExperimentRecord) -> ExperimentOut:
    return ExperimentOut.of(record, recorded_of(session, record))


def _notify(doorbell: Notifier, job_ids: list[str]) -> None:
    for job_id in job_ids:
        if not doorbell.notify(job_id):
            return  # the broker is away, and each further attempt would wait for it; workers look by themselves


@router.post(
    "",
    responses=leads_to(
        "experiment_id",
        "get_experiment",
        "cancel_experiment",
        "get_experiment_report",
        "get_experiment_report_csv",
        "get_experiment_scores",
        "get_experiment_plot",
    ),
)
@raises(*_REFUSALS, IdempotencyMismatch, IdempotencyInProgress)
def create_experiment(
    request: ExperimentCreate,
    database: DatabaseDep,
    blobs: BlobsDep,
    background: BackgroundTasks,
    settings: SettingsDep,
    registry: RegistryDep,
    doorbell: DoorbellDep,
    caller: CallerDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> ExperimentOut:
    """Queue an experiment: each arm's job once for each seed, and when the last has ended, the evaluation that judges.

    All arms see the same rows in the same order, for as many steps and from the same weights, seed by seed; the rows
    that they are judged by are trained on by none. The same Idempotency-Key gives the same experiment again.
    """
    asked = service.AskedExperiment.of(request, caller, idempotency_key)
    with database.read() as session:
        earlier = service.find_earlier(session, asked)
        if earlier is not None:
            return _out(session, earlier)
    now = int(time.time())
    plan, made = make_plan(request, Workplace(database, blobs, settings, registry), now)
    record = service.create(database, asked, plan, made, now)
    with database.read() as session:
        created = _out(session, record)
    background.add_task(_notify, doorbell, [run.job for run in created.runs])
    return created


@router.post("/estimates")
@raises(*_REFUSALS)
def estimate_experiment(
    request: ExperimentCreate, database: DatabaseDep, blobs: BlobsDep, settings: SettingsDep, registry: RegistryDep
) -> ExperimentEstimateOut:
    """Say what an experiment would do and take, and the smallest difference it could show, without making it."""
    place = Workplace(database, blobs, settings, registry)
    plan, made = make_plan(request, place, int(time.time()))
    drop_files(database, made)
    return ExperimentEstimateOut.of(plan)


@router.get("", responses=leads_to("experiment_id", "get_experiment", by=FIRST_ID))
def list_experiments(
    session: ReadSession, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Page[ExperimentOut]:
    """List experiments, newest first."""
    rows, has_more = records.list_page(session, after=after, limit=limit)
    return page([_out(session, row) for row in rows], [row.id for row in rows], has_more)


@router.get("/{experiment_id}")
@raises(ExperimentNotFound)
def get_experiment(experiment_id: str, database: DatabaseDep) -> ExperimentOut:
    """Look up an experiment."""
    with database.read() as session:
        return _out(session, records.get(session, experiment_id))


@router.post("/{experiment_id}/cancel")
@raises(*WRITING, ExperimentNotFound)
def cancel_experiment(experiment_id: str, database: DatabaseDep) -> ExperimentOut:
    """Cancel an experiment and every job of it that has not ended. An ended experiment stays as it is."""

    def cancel(session: Session) -> ExperimentOut:
        return _out(session, records.cancel(session, experiment_id, int(time.time())))

    return database.write_freeing(cancel)  # jobs that no longer train give their disk back


@router.get("/{experiment_id}/report")
@raises(ExperimentNotFound, ReportNotReady)
def get_experiment_report(experiment_id: str, database: DatabaseDep) -> ReportOut:
    """Give what an experiment found: verdicts in words, means and differences with their intervals, learning curves.

    Verdicts are of the metric that was declared, each arm against the first. `rerun` is the request that repeats it.
    """
    return reports.make(database, experiment_id)


@router.get("/{experiment_id}/report.csv", response_class=Response, responses=_CSV)
@raises(ExperimentNotFound, ReportNotReady)
def get_experiment_report_csv(experiment_id: str, database: DatabaseDep) -> Response:
    """Give the report's numbers, a line for each metric and arm."""
    return Response(reports.summary(database, experiment_id), media_type="text/csv; charset=utf-8")


@router.get("/{experiment_id}/scores.csv", response_class=Response, responses=_CSV)
@raises(ExperimentNotFound, ReportNotReady)
def get_experiment_scores(experiment_id: str, database: DatabaseDep) -> Response:
    """Give every score, a line for each model, row and metric."""
    return Response(reports.scores(database, experiment_id), media_type="text/csv; charset=utf-8")


@router.get("/{experiment_id}/report.svg", response_class=Response, responses=_SVG)
@raises(ExperimentNotFound, ReportNotReady)
def get_experiment_plot(experiment_id: str, query: Annotated[PlotQuery, Query()], database: DatabaseDep) -> Response:
    """Draw the differences from the first arm with their intervals, as a picture without scripts."""
    drawn = reports.plot(database, experiment_id, query)
    return Response(drawn, media_type="image/svg+xml")
