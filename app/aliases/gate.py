"""Whether models pass what an alias is to be moved by: thresholds, held against what an ended evaluation found.

Nothing is measured here, and an evaluation counts only for the adapter that it asked, by its digest. What a threshold
is, and when it is passed, is ``core.scoring.gates``' matter.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from app.aliases.schemas import GateCreate
from app.models.service import ServedModel
from core.errors import EvaluationNotFound, GateFailed, InvalidParameter
from core.evaluations.spec import EvaluationSpec, JudgedModel
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store import jobs
from core.store.aliases.records import name_behind
from core.store.db import Session

if TYPE_CHECKING:
    from core.evaluations.result import EvaluationResult
    from core.scoring.gates import Gate, GateAnswer


def pass_gate(session: Session, alias: str, asked: GateCreate, models: Sequence[ServedModel]) -> dict[str, Any]:
    """Give what the models pass, for the alias' history.

    Raises:
        GateFailed: a model does not pass a threshold.
        InvalidParameter: the evaluation has not succeeded, or says nothing of a model or a threshold.
    """
    # statistics, and with them numpy, take a tenth of a second that no other request should wait for
    from core.evaluations.result import EvaluationResult, main_metric_of
    from core.scoring.gates import read_gate, with_model

    try:
        job = jobs.get(session, asked.evaluation, JobKind.EVALUATION)
    except EvaluationNotFound as error:
        raise InvalidParameter("gate.evaluation", str(error)) from error
    if job.status is not JobStatus.SUCCEEDED:
        raise InvalidParameter("gate.evaluation", f"{job.id} has no result: it is {job.status}")
    spec = EvaluationSpec.model_validate(job.spec)
    found = EvaluationResult.model_validate({k: v for k, v in (job.result or {}).items() if k != "result_files"})
    main = main_metric_of(spec)
    texts = asked.thresholds or spec.gates
    if not texts:
        raise InvalidParameter("gate.thresholds", f"{job.id} has no gate of its own; write what is to be passed")
    if main is None:
        raise InvalidParameter("gate.evaluation", f"{job.id} scored nothing by which a model could be better")
    read = []
    for place, text in enumerate(texts):
        param = f"gate.thresholds[{place}]"
        read.append((param, read_gate(with_model(text, partial(name_behind, session)), param, main)))
    answers = [
        (judged.name, _answer(judged, gate, param, job.id, found))
        for judged in (_judged(model, spec, job.id) for model in models)
        for param, gate in read
    ]
    failed = [f"{model}: {answer.text}" for model, answer in answers if not answer.passed]
    if failed:
        raise GateFailed(alias, " ".join(failed))
    told = [{"model": model} | answer.model_dump(mode="json", exclude={"passed"}) for model, answer in answers]
    return {"evaluation": job.id, "answers": told}


def _judged(model: ServedModel, spec: EvaluationSpec, evaluation: str) -> JudgedModel:
    for judged in spec.models:
        adapter = None if judged.adapter is None else judged.adapter.adapter_sha256
        if (spec.base_model, adapter) == (model.base_model, model.adapter):
            return judged
    asked = ", ".join(judged.name for judged in spec.models)
    raise InvalidParameter("gate.evaluation", f"{evaluation} says nothing of {model.name}; it asked {asked}")


def _answer(judged: JudgedModel, gate: "Gate", param: str, evaluation: str, found: "EvaluationResult") -> "GateAnswer":
    from core.scoring.gates import BetterThan, answer_better_than, answer_threshold

    metric = gate.metric.name
    if isinstance(gate, BetterThan):
        wanted = (judged.name, gate.model, metric)
        for verdict in found.verdicts:
            if (verdict.comparison.ours, verdict.comparison.theirs, verdict.comparison.metric) == wanted:
                return answer_better_than(gate, verdict)
        for answered in found.gates:  # the others that were compared were by a gate of the evaluation
            if (answered.model, answered.gate) == (judged.name, f"{metric} better than {gate.model}"):
                return answered
        raise InvalidParameter(param, f"{evaluation} did not compare {judged.name} with {gate.model} by {metric}")
    scores = next(result.scores for result in found.models if result.model == judged.name)
    for mean in scores:
        if mean.metric == metric:
            return answer_threshold(gate, mean)
    raise InvalidParameter(param, f"goes by {metric}, which {evaluation} did not score")
