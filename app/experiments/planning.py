"""From an experiment's request to its plan: its arms as jobs, its rows in their parts, all that it is refused for.

All is refused before anything is queued. Files that are made on the way are named, so that they can go again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from app.evaluations import service as evaluations
from app.evaluations.schemas import EvaluationCreate
from app.experiments.part_files import NamedFiles, PartIds, Workplace, count_prompts, drop_files, make_parts
from app.experiments.schemas import ExperimentCreate
from app.fine_tuning import service as fine_tuning
from app.fine_tuning.schemas import JobCreate
from app.http.wire import refusal_of_first
from core.errors import InvalidParameter, JobDoesNotFit, ServiceError
from core.evaluations.spec import MAX_MODELS, EvaluationSpec
from core.experiments.arms import AskedArm, job_of, list_arms, seeds_of
from core.experiments.plan import ExperimentPlan, PlannedArm, RowCounts, notes_on, notes_on_rows
from core.jobs.spec import JobSpec
from core.store import files
from core.store.db import Session
from core.store.experiments.records import METADATA_KEYS


def make_plan(request: ExperimentCreate, place: Workplace, now: int) -> tuple[ExperimentPlan, tuple[str, ...]]:
    """Settle all of an experiment; also give the ids of the files that were made for it.

    Raises:
        InvalidParameter: a field, an arm's field, or how files and fields fit each other is at fault.
        ModelNotFound: the deployment does not train this base model.
        JobDoesNotFit: the machine has too little memory for any of the arms.
        BaseModelNotReady: the base model is not imported yet.
        BlobNotFound, BlobDamaged: a file's bytes are gone or have changed on disk.
    """
    arms, seeds = list_arms(request), seeds_of(request)
    _check_job(request)
    with place.database.read() as session:
        sources, specs = _specify(session, request, arms, place)
    chooses = request.prune or request.tune is not None or any(spec.field_that_needs_scores for spec in specs)
    parts = make_parts(sources, specs[0], place, now, chooses=chooses)
    try:
        with place.database.read() as session:
            return _plan(session, request, arms, seeds, parts, place, now), parts.made
    except ServiceError:
        drop_files(place.database, parts.made)
        raise


def _check_job(request: ExperimentCreate) -> None:
    if request.job.seed is not None:
        raise InvalidParameter("job.seed", "seeds are the experiment's: see `seeds`; leave it out")
    taken = sorted(set(request.job.metadata or {}) & set(METADATA_KEYS))
    if taken:
        raise InvalidParameter("job.metadata", f"{taken[0]} is what tells a job's place in its experiment")


def _specify(
    session: Session, request: ExperimentCreate, arms: list[AskedArm], place: Workplace
) -> tuple[NamedFiles, list[JobSpec]]:
    """Resolve the job that all share, and then each arm's, so that what is refused is named by where it stands."""
    with _within("job"):
        shared = _specify_job(session, request.job, place)
    specs = []
    for arm in arms:
        with _within(arm.param, f"{arm.name}: "):
            specs.append(_specify_job(session, _job_create(request, arm), place))
    judge = None
    if request.judge is not None:
        judge = fine_tuning.file_ref(session, request.judge, "judge", request.job, use="judged by")
    return NamedFiles(shared.training_file, shared.validation_file, judge), specs


def _specify_job(session: Session, job: JobCreate, place: Workplace) -> JobSpec:
    return fine_tuning.specify(session, job, job.training_file, settings=place.settings, registry=place.registry)


def _job_create(request: ExperimentCreate, arm: AskedArm, files_of: Mapping[str, str] | None = None) -> JobCreate:
    """Read an arm's job as a request of its own, on other files where they were made."""
    shared = request.job.model_dump(mode="json", exclude_unset=True) | dict(files_of or {})
    return JobCreate.model_validate(job_of(shared, arm))


@contextmanager
def _within(param: str, said: str = "") -> Iterator[None]:
    """Name what is refused by where it stands in the experiment's request."""
    try:
        yield
    except ValidationError as error:
        refusal = refusal_of_first(error.errors(include_url=False))
        raise type(refusal)(_joined(param, refusal.param), f"{said}{refusal.reason}") from error
    except InvalidParameter as error:
        raise type(error)(_joined(param, error.param), f"{said}{error.reason}") from error
    except JobDoesNotFit as error:
        raise InvalidParameter(param, f"{said}{error}") from error


def _joined(param: str, field: str) -> str:
    return f"{param}.{field}" if field else param


def _plan(
    session: Session,
    request: ExperimentCreate,
    asked: list[AskedArm],
    seeds: tuple[int, ...],
    parts: PartIds,
    place: Workplace,
    now: int,
) -> ExperimentPlan:
    # what is held out while a run trains is what may be chosen by; where nothing is, what it is judged by
    on_files = {"training_file": parts.train, "validation_file": parts.choose or parts.judge}
    arms = tuple(_planned(session, request, arm, on_files, place, now) for arm in asked)
    judging = _evaluation(session, request, arms, parts.judge, "judge", place)
    choosing = None
    if request.prune:
        assert parts.choose is not None
        choosing = _evaluation(session, request, arms, parts.choose, "prune", place)
        same_seed = choosing.sampling.model_copy(update={"seed": judging.sampling.seed})  # one that can be told again
        choosing = choosing.model_copy(update={"sampling": same_seed})
    plan = ExperimentPlan(
        base_model=arms[0].spec.base_model,
        arms=arms,
        seeds=seeds,
        base=request.base,
        primary_metric=request.primary_metric,
        metrics=request.metrics,
        margin=request.margin,
        judging=judging,
        choosing=choosing,
        rows=RowCounts(
            train=arms[0].spec.training_file.examples,
            choose=None if parts.choose is None else files.get(session, parts.choose).examples,
            judge=len(judging.lines),
        ),
        different_rows=count_prompts(judging, place, "judge"),
        tunes=request.tune is not None,
        prunes=request.prune,
        budget_s=request.budget_s,
        notes=(*notes_on(arms), *notes_on_rows(judging)),
    )
    first_s = plan.estimated_s(plan.first_round())
    if request.budget_s is not None and first_s is not None and first_s > request.budget_s:
        raise InvalidParameter("budget_s", f"one seed of all arms alone is expected to take {first_s:,.0f} s")
    return plan


def _planned(
    session: Session,
    request: ExperimentCreate,
    arm: AskedArm,
    on_files: Mapping[str, str],
    place: Workplace,
    now: int,
) -> PlannedArm:
    with _within(arm.param, f"{arm.name}: "):
        job = _job_create(request, arm, on_files)
        draft = fine_tuning.make_draft(
            session, job, settings=place.settings, registry=place.registry, blobs=place.blobs, now=now
        )
    requested: dict[str, Any] = job.model_dump(mode="json", exclude_unset=True)
    return PlannedArm(name=arm.name, fields=arm.fields, spec=draft.spec, requested=requested, estimate=draft.estimate)


def _evaluation(
    session: Session,
    request: ExperimentCreate,
    arms: Sequence[PlannedArm],
    file_id: str,
    param: str,
    place: Workplace,
) -> EvaluationSpec:
    """Specify an evaluation of models that do not exist yet, by having those judged that they go on from."""
    job = request.job
    metrics = (request.primary_metric, *(name for name in request.metrics if name != request.primary_metric))
    earlier = sorted({arm.spec.continue_from.name for arm in arms if arm.spec.continue_from is not None})
    unchecked: list[str] = []
    for begin in range(0, max(1, len(earlier)), MAX_MODELS - 1):
        try:
            spec = evaluations.specify(
                session,
                EvaluationCreate(
                    models=(job.model, *earlier[begin : begin + MAX_MODELS - 1]),
                    file=file_id,
                    metrics=metrics,
                    normalization=request.normalization,
                    sampling=request.sampling,
                    max_rows=request.max_rows,
                    prompt_format=job.prompt_format,
                    max_length=job.max_length,
                    memory=False,
                ),
                settings=place.settings,
                blobs=place.blobs,
            )
        except InvalidParameter as error:
            named = {"file": param, "metrics[0]": "primary_metric"}.get(error.param, error.param.partition("[")[0])
            raise type(error)(named, error.reason) from error
        unchecked += spec.unchecked_models
    return spec.model_copy(update={"models": (), "unchecked_models": tuple(unchecked)})
