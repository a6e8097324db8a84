"""What an evaluation comes to: means with intervals, comparisons with the first model, rows to look at, gates.

A pure function of the rows' scores. How a mean, an interval and a verdict are made is ``core.scoring``'s.
"""

from collections.abc import Callable, Sequence
from typing import Final

from core.evaluations.memory import MemoryReport
from core.evaluations.scores import ModelScores
from core.evaluations.spec import EvaluationSpec, metric_of
from core.scoring.gates import BetterThan, Gate, GateAnswer, answer_better_than, answer_threshold, read_gate
from core.scoring.registry import Metric
from core.scoring.statistics.comparison import Arm, PairedComparison, compare
from core.scoring.statistics.mean_score import MeanScore, mean_score
from core.scoring.verdict import Verdict, judge
from core.values import Frozen

ROWS_SHOWN: Final = 5  # of each list of rows to look at


class RowOfNote(Frozen):
    """A row that is worth a look: its place among the rows, its line, and its score by the main metric."""

    row: int
    line: int
    score: float


class ModelResult(Frozen):
    """One model's means; its worst and best rows by the main metric, none where nothing is better or worse by it."""

    model: str
    scores: tuple[MeanScore, ...]
    worst: tuple[RowOfNote, ...]
    best: tuple[RowOfNote, ...]


class ChangedRow(Frozen):
    """A row that two models differ on, by the main metric."""

    row: int
    line: int
    ours: float
    theirs: float


class Changes(Frozen):
    """How many rows a model answers better than another one and how many worse, with the largest changes."""

    model: str
    against: str
    metric: str
    improved: int
    regressed: int
    unchanged: int
    most_improved: tuple[ChangedRow, ...]
    most_regressed: tuple[ChangedRow, ...]


class ModelGate(GateAnswer):
    """A gate as one model stands before it."""

    model: str


class EvaluationResult(Frozen):
    """Everything that is told of an ended evaluation beside its rows.

    Attributes:
        main_metric: the first that says which way is better; None: none of those asked for does.
        verdicts: of each metric that has a better way; all were judged together.
        gates: each gate for each model but the one that it names.
        memory: what each adapter forgot and learnt by heart; none where that was not asked.
        text: the verdicts on the main metric, as a paragraph.
    """

    rows: int
    clusters: int
    too_long: int
    unchecked_models: tuple[str, ...]
    main_metric: str | None
    models: tuple[ModelResult, ...]
    verdicts: tuple[Verdict, ...]
    changes: tuple[Changes, ...]
    gates: tuple[ModelGate, ...]
    memory: tuple[MemoryReport, ...]
    text: str


def make_result(
    spec: EvaluationSpec,
    models: Sequence[ModelScores],
    sign: Callable[[], None],
    memory: Sequence[MemoryReport] = (),
) -> EvaluationResult:
    """Make the result of all models' scores, which takes seconds.

    Args:
        models: in the order of the specification.
        memory: of each adapter, where the specification wants it.
        sign: called now and then while the work goes on.
    """
    main = main_metric_of(spec)
    gates = [] if main is None else [read_gate(text, f"gate[{n}]", main) for n, text in enumerate(spec.gates)]
    verdicts = _judge(spec, models, gates, sign)
    means: dict[tuple[str, str], MeanScore] = {}
    for model in models:
        for metric in spec.scoring:
            sign()
            scores_N, weights_N = model.scores_by(metric), model.weights_for(metric)
            means[model.model, metric.name] = mean_score(metric, [scores_N], model.clusters, weights_N)
    first, *others = models
    changes = [] if main is None else [_changes(model, first, main) for model in others]
    return EvaluationResult(
        rows=len(first.rows),
        clusters=len(set(first.clusters)),
        too_long=spec.too_long,
        unchecked_models=spec.unchecked_models,
        main_metric=None if main is None else main.name,
        models=tuple(_of_model(model, spec, means, main) for model in models),
        verdicts=tuple(verdict for verdict in verdicts if verdict.comparison.theirs == first.model),
        changes=tuple(changes),
        gates=tuple(_answer(model, gate, spec, means, verdicts) for gate in gates for model in _asked(gate, models)),
        memory=tuple(memory),
        text=_text(verdicts, first, means, main),
    )


def main_metric_of(spec: EvaluationSpec) -> Metric | None:
    """Give the first metric that says which way is better."""
    return next((metric for metric in spec.scoring if metric.better != "neither"), None)


def _judge(
    spec: EvaluationSpec, models: Sequence[ModelScores], gates: Sequence[Gate], sign: Callable[[], None]
) -> list[Verdict]:
    """Compare each model with the first one by every metric, and with those that gates name; judge all together."""
    named = {model.model: model for model in models}
    first, *others = models
    pairs = [(model, first, metric) for metric in spec.scoring if metric.better != "neither" for model in others]
    for gate in gates:
        if isinstance(gate, BetterThan) and gate.model != first.model:
            metric, theirs = metric_of(gate.metric.name, spec.normalization), named[gate.model]
            pairs += [(model, theirs, metric) for model in _asked(gate, models)]
    compared: list[PairedComparison] = []
    for ours, theirs, metric in pairs:
        sign()
        compared.append(_compare(ours, theirs, metric))
    return judge(compared)


def _compare(ours: ModelScores, theirs: ModelScores, metric: Metric) -> PairedComparison:
    one, other = (Arm(name=model.model, scores_SN=[model.scores_by(metric)]) for model in (ours, theirs))
    return compare(metric, one, other, ours.clusters, ours.weights_for(metric))


def _of_model(
    model: ModelScores, spec: EvaluationSpec, means: dict[tuple[str, str], MeanScore], main: Metric | None
) -> ModelResult:
    ranked: list[RowOfNote] = []
    if main is not None:
        scored = [(number, row.line, row.scores.get(main.name)) for number, row in enumerate(model.rows)]
        there = [RowOfNote(row=row, line=line, score=score) for row, line, score in scored if score is not None]
        ranked = sorted(there, key=lambda row: row.score, reverse=main.better == "lower")
    return ModelResult(
        model=model.model,
        scores=tuple(means[model.model, name] for name in spec.metrics),
        worst=tuple(ranked[:ROWS_SHOWN]),
        best=tuple(reversed(ranked[-ROWS_SHOWN:])),
    )


def _changes(model: ModelScores, against: ModelScores, metric: Metric) -> Changes:
    sign = 1 if metric.better == "higher" else -1
    pairs = zip(model.rows, model.scores_by(metric), against.scores_by(metric), strict=True)
    both = [
        ChangedRow(row=number, line=row.line, ours=ours, theirs=theirs)
        for number, (row, ours, theirs) in enumerate(pairs)
        if ours is not None and theirs is not None
    ]
    ranked = sorted(both, key=lambda row: sign * (row.theirs - row.ours))  # the largest gain first
    improved = [row for row in ranked if sign * (row.ours - row.theirs) > 0]
    regressed = [row for row in reversed(ranked) if sign * (row.ours - row.theirs) < 0]
    return Changes(
        model=model.model,
        against=against.model,
        metric=metric.name,
        improved=len(improved),
        regressed=len(regressed),
        unchanged=len(both) - len(improved) - len(regressed),
        most_improved=tuple(improved[:ROWS_SHOWN]),
        most_regressed=tuple(regressed[:ROWS_SHOWN]),
    )


def _asked(gate: Gate, models: Sequence[ModelScores]) -> list[ModelScores]:
    """Give the models that a gate is about: all but the one that they are to be better than."""
    named = gate.model if isinstance(gate, BetterThan) else None
    return [model for model in models if model.model != named]


def _answer(
    model: ModelScores,
    gate: Gate,
    spec: EvaluationSpec,
    means: dict[tuple[str, str], MeanScore],
    verdicts: Sequence[Verdict],
) -> ModelGate:
    if isinstance(gate, BetterThan):
        answer = answer_better_than(gate, _verdict_on(verdicts, model.model, gate))
    else:
        answer = answer_threshold(gate, means[model.model, gate.metric.name])
    return ModelGate(model=model.model, **dict(answer))


def _verdict_on(verdicts: Sequence[Verdict], model: str, gate: BetterThan) -> Verdict:
    wanted = (model, gate.model, gate.metric.name)
    return next(
        verdict
        for verdict in verdicts
        if (verdict.comparison.ours, verdict.comparison.theirs, verdict.comparison.metric) == wanted
    )


def _text(
    verdicts: Sequence[Verdict], first: ModelScores, means: dict[tuple[str, str], MeanScore], main: Metric | None
) -> str:
    if main is None:
        return "No metric was asked for by which one model could be better than another."
    told = [
        verdict.text
        for verdict in verdicts
        if (verdict.comparison.metric, verdict.comparison.theirs) == (main.name, first.model)
    ]
    if told:
        return " ".join(told)
    mean = means[first.model, main.name]
    if mean.mean is None:
        return f"{first.model} has no score on {main.name}: it is not defined for any of the rows."
    if mean.interval is None:
        return f"{first.model} has {main.name} {mean.mean:.3f} over one row."
    return (
        f"{first.model} has {main.name} {mean.mean:.3f}, 95 % interval {mean.interval.low:.3f} to "
        f"{mean.interval.high:.3f} over {mean.rows:,} rows."
    )
