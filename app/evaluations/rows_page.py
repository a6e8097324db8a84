"""A page of an evaluation's rows, in the file's order or by their scores."""

from collections.abc import Callable

from app.evaluations.schemas import EvaluationRowOut, EvaluationRowsOut, EvaluationRowsQuery
from core.errors import InvalidParameter
from core.evaluations.scores import ModelScores
from core.evaluations.spec import EvaluationSpec
from core.store import evaluations
from core.store.db import Session


def rows_page(session: Session, job_id: str, spec: EvaluationSpec, query: EvaluationRowsQuery) -> EvaluationRowsOut:
    """Give the rows that a query asks for; those without a score come last.

    Raises:
        InvalidParameter: a metric or a model is named that the evaluation has not, or a row.
    """
    names = [model.name for model in spec.models]
    order = _order(session, job_id, spec, query)
    if query.after is not None:
        if query.after not in order:
            raise InvalidParameter("after", f"the evaluation has no row {query.after}")
        order = order[order.index(query.after) + 1 :]
    rows = evaluations.list_answered(session, job_id, order[: query.limit], len(names))
    has_more = bool(rows) and len(order) > query.limit  # all are there as soon as a worker has begun, and none before
    return EvaluationRowsOut(object="list", data=[EvaluationRowOut.of(row, names) for row in rows], has_more=has_more)


def _order(session: Session, job_id: str, spec: EvaluationSpec, query: EvaluationRowsQuery) -> list[int]:
    """Give the numbers of all rows in the order that is asked for."""
    names = [model.name for model in spec.models]
    if query.sort is None:
        for param in ("model", "against"):
            if getattr(query, param) is not None:
                raise InvalidParameter(param, "says whose score is sorted by; name a metric in sort too")
        numbers = range(len(spec.lines))
        return list(numbers if query.order == "asc" else reversed(numbers))
    if query.sort not in spec.metrics:
        raise InvalidParameter("sort", f"the evaluation has no metric {query.sort}; it has {', '.join(spec.metrics)}")
    for param, name in (("model", query.model), ("against", query.against)):
        if name is not None and name not in names:
            raise InvalidParameter(param, f"the evaluation does not ask {name}; it asks {', '.join(names)}")
    scores = {model.model: model for model in evaluations.list_scores(session, job_id, names, spec.judged_rows)}
    value = _value_by(
        query.sort, scores[query.model or names[-1]], None if query.against is None else scores[query.against]
    )
    found = {number: value(number) for number in range(len(scores[names[0]].rows))}
    scored = sorted((score, number) for number, score in found.items() if score is not None)
    if query.order == "desc":
        scored.reverse()
    return [number for _, number in scored] + [number for number, score in found.items() if score is None]


def _value_by(metric: str, model: ModelScores, against: ModelScores | None) -> Callable[[int], float | None]:
    def value(number: int) -> float | None:
        ours = model.rows[number].scores.get(metric)
        if against is None or ours is None:
            return ours
        theirs = against.rows[number].scores.get(metric)
        return None if theirs is None else ours - theirs

    return value
