"""An experiment's evaluations: ordinary jobs of their kind, and the scores that they leave."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update

from core.errors import ModelNotFound
from core.evaluations.spec import EvaluationSpec, JudgedModel
from core.experiments.progress import RunOutcome
from core.experiments.scores import RunScores, ScoreTable
from core.ids import request_digest
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef
from core.store import adapters, evaluations, jobs
from core.store.db import Session
from core.store.experiments.records import METADATA_KEYS
from core.store.jobs import NewJob
from core.store.references.rows import list_parts
from core.store.tables import ExperimentRecord, ExperimentRunRecord


def evaluate(
    session: Session,
    record: ExperimentRecord,
    spec: EvaluationSpec,
    runs: Sequence[RunOutcome],
    now: int,
    *,
    base: bool,
) -> str:
    """Queue the evaluation of what runs made, and of the base model as it is; give its id.

    Runs that made the same bytes are asked as one model: asked twice, an engine may round otherwise.

    Raises:
        ModelNotFound: a model was deleted.
        FileNotStored: the file was.
    """
    models: list[JudgedModel] = []
    asked: dict[frozenset[str], str] = {}  # by the digests of an adapter's files
    for run in runs:
        if run.model is None:
            continue
        judged = _judged(session, run.model)
        assert judged.adapter is not None
        digest = judged.adapter.adapter_sha256
        # of an adapter from before its files were noted, its manifest is all that is known
        same = asked.setdefault(frozenset(list_parts(session, digest) or [digest]), judged.name)
        if same == judged.name:
            models.append(judged)
        session.execute(
            update(ExperimentRunRecord).where(ExperimentRunRecord.job_id == run.job_id).values(judged_as=same)
        )
    if base:
        models.append(JudgedModel(name=spec.base_model))
    requested: dict[str, Any] = {"file": spec.file.id, "models": [model.name for model in models]}
    new = NewJob(
        caller=record.caller,
        spec=spec.model_copy(update={"models": tuple(models)}),
        requested=requested,
        request_sha256=request_digest(requested),
        metadata={METADATA_KEYS[0]: record.id},
    )
    return jobs.create(session, new, now).id


def read_scores(session: Session, evaluation_id: str, runs: Sequence[RunOutcome]) -> ScoreTable:
    """Read an ended evaluation's scores of what these runs made, and of the base model where it was asked."""
    spec = EvaluationSpec.model_validate(jobs.get(session, evaluation_id, JobKind.EVALUATION).spec)
    scored = evaluations.list_scores(session, evaluation_id, [model.name for model in spec.models], spec.judged_rows)
    first = scored[0].rows
    found = {model.model: {metric.name: model.scores_by(metric) for metric in spec.scoring} for model in scored}
    judged = [RunScores(run.run, found[run.judged_as]) for run in runs if run.judged_as in found]
    return ScoreTable(
        lines_N=[row.line for row in first],
        clusters_N=[row.cluster for row in first],
        tokens_N=[row.tokens for row in first],
        models=[*judged, *(RunScores(None, found[name]) for name in found if name == spec.base_model)],
    )


def _judged(session: Session, name: str) -> JudgedModel:
    served = adapters.find_served(session, name)
    if served is None:
        raise ModelNotFound(name)
    return JudgedModel(name=name, adapter=AdapterRef(name=name, adapter_sha256=served.adapter_sha256))
