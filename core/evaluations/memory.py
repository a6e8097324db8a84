"""What an adapter forgot of what its base model knew, and what it learnt by heart: numbers, and a paragraph of them.

Three questions, each asked of adapter and base model alike. How surprised is it by general text, in several registers?
By how much less is it surprised by rows that it was trained on than by rows that it was not? Does it go on with an
answer that it was trained on, word for word, once it is given the answer's beginning (Carlini et al. 2022, 2202.07646)?
A pure function of scores.
"""

from collections.abc import Callable, Sequence

from core.evaluations.general_text import PASSAGES
from core.evaluations.scores import EXTRACTED, NATS, ModelScores, RowScores
from core.evaluations.spec import EvaluationSpec
from core.scoring.registry import METRICS
from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.comparison import Arm, compare
from core.values import Frozen


class RegisterScore(Frozen):
    """Nats per token of one passage of general text."""

    register_name: str
    base: float | None
    adapter: float | None


class Forgetting(Frozen):
    """General text, in nats per token; ``change`` is the adapter's less the base model's, with its 95 % interval."""

    base: float | None
    adapter: float | None
    change: float | None
    interval: Interval | None
    registers: tuple[RegisterScore, ...]


class HeldByHeart(Frozen):
    """Rows that the adapter was trained on.

    Attributes:
        rows: how many were asked.
        gap: nats per token by which held-out rows surprise the adapter more than rows that it was trained on.
        base_gap: the same of the base model, which was trained on neither: how much harder the held-out rows are.
        extracted, base_extracted: share of trained answers that are gone on with exactly, of those that are long enough
            to ask, ``askable``; None: there is none.
    """

    rows: int
    gap: float | None
    base_gap: float | None
    askable: int
    extracted: float | None
    base_extracted: float | None


class MemoryReport(Frozen):
    """Both, of one adapter. ``memory`` None: nobody knows any more what it was trained on."""

    model: str
    forgetting: Forgetting
    memory: HeldByHeart | None
    text: str


def report_memory(spec: EvaluationSpec, scores_of: Callable[[range], Sequence[ModelScores]]) -> list[MemoryReport]:
    """Report on each adapter of an evaluation that asks for it.

    Args:
        scores_of: gives all models' scores of the rows of these numbers.
    """
    if spec.general_text is None:
        return []
    held_out, general = scores_of(spec.judged_rows), scores_of(spec.general_rows)
    base = spec.base_index
    places = {rows.model: place for place, rows in enumerate(spec.trained)}
    reports = []
    for index, model in enumerate(spec.models):
        if model.adapter is None:
            continue
        memory = None
        if model.name in places:
            trained = scores_of(spec.trained_rows(places[model.name]))
            memory = _memory(trained[index].rows, trained[base].rows, held_out[index].rows, held_out[base].rows)
        forgetting = _forgetting(model.name, general[index].rows, general[base].rows)
        text = f"{_forgetting_text(model.name, forgetting)} {_memory_text(memory)}"
        reports.append(MemoryReport(model=model.name, forgetting=forgetting, memory=memory, text=text))
    return reports


def _forgetting(model: str, adapter: Sequence[RowScores], base: Sequence[RowScores]) -> Forgetting:
    ours, theirs = (
        Arm(name=name, scores_SN=[[row.scores.get(NATS) for row in rows]])
        for name, rows in ((model, adapter), ("base", base))
    )
    found = compare(METRICS[NATS], ours, theirs, list(range(len(adapter))), [float(row.tokens) for row in adapter])
    return Forgetting(
        base=found.their_mean,
        adapter=found.our_mean,
        change=found.difference,
        interval=None if found.over_rows is None else found.over_rows.interval,
        registers=tuple(
            RegisterScore(register_name=name, base=theirs.scores.get(NATS), adapter=ours.scores.get(NATS))
            for (name, _), ours, theirs in zip(PASSAGES, adapter, base, strict=True)
        ),
    )


def _memory(
    trained: Sequence[RowScores],
    trained_base: Sequence[RowScores],
    held_out: Sequence[RowScores],
    held_out_base: Sequence[RowScores],
) -> HeldByHeart:
    askable, extracted = _share(trained)
    return HeldByHeart(
        rows=len(trained),
        gap=_gap(held_out, trained),
        base_gap=_gap(held_out_base, trained_base),
        askable=askable,
        extracted=extracted,
        base_extracted=_share(trained_base)[1],
    )


def _gap(held_out: Sequence[RowScores], trained: Sequence[RowScores]) -> float | None:
    outside, inside = _nats(held_out), _nats(trained)
    return None if outside is None or inside is None else outside - inside


def _nats(rows: Sequence[RowScores]) -> float | None:
    """Give the mean over tokens."""
    scored = [(score, row.tokens) for row in rows if (score := row.scores.get(NATS)) is not None]
    tokens = sum(count for _, count in scored)
    return sum(score * count for score, count in scored) / tokens if tokens else None


def _share(rows: Sequence[RowScores]) -> tuple[int, float | None]:
    asked = [score for row in rows if (score := row.scores.get(EXTRACTED)) is not None]
    return len(asked), sum(asked) / len(asked) if asked else None


def _forgetting_text(model: str, found: Forgetting) -> str:
    if found.change is None or found.interval is None or found.adapter is None or found.base is None:
        return f"{model} has no score on general text."
    shown = (
        f"{found.adapter:.3f} nats per token against the base model's {found.base:.3f}, a change of "
        f"{found.change:+.3f} with the 95 % interval {found.interval.low:+.3f} to {found.interval.high:+.3f} over "
        f"{len(found.registers)} passages"
    )
    if found.interval.low > 0:
        worst = max(found.registers, key=lambda each: (each.adapter or 0) - (each.base or 0))
        return f"{model} knows general text less well than before: {shown}, most of all {worst.register_name}."
    if found.interval.high < 0:
        return f"{model} knows general text better than before: {shown}."
    return f"No change of {model} on general text can be told: {shown}."


def _memory_text(found: HeldByHeart | None) -> str:
    if found is None or found.gap is None or found.base_gap is None:
        return "What it was trained on is not known any more, so nothing is said of what it learnt by heart."
    gap = found.gap - found.base_gap
    text = (
        f"Held-out rows surprise it {_by(found.gap)} nats per token than those that it was trained on, and the base "
        f"model, which was trained on neither, {_by(found.base_gap)}: the training's share is {gap:+.3f}."
    )
    if found.extracted is None:
        return f"{text} Their answers are too short to ask whether they are known by heart."
    by_base = 0.0 if found.base_extracted is None else found.base_extracted
    return (
        f"{text} Given the first words of an answer, it goes on with the rest exactly in {found.extracted:.0%} of "
        f"{found.askable:,} trained rows, the base model in {by_base:.0%}."
    )


def _by(nats: float) -> str:
    return f"{abs(nats):.3f} {'more' if nats >= 0 else 'fewer'}"
