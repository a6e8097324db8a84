"""What a comparison's numbers mean, in words: better, worse, the same within δ, or not to be told apart.

A pure function of the numbers. A word is claimed only where the intervals hold it: over rows, and over seeds where
there are several. Never a star, and never "significant".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from core.scoring.statistics.bootstrap import LEVEL, Interval
from core.scoring.statistics.comparison import Evidence, PairedComparison
from core.scoring.statistics.p_values import holm
from core.values import Frozen

MIN_ROWS: Final = 100  # that are not repetitions of each other; below them there is no verdict

Word = Literal["better", "worse", "same", "undecided", "too_few"]
# as a table or a picture says them
WORDS: Final[Mapping[Word, str]] = {
    "better": "better",
    "worse": "worse",
    "same": "the same within the margin",
    "undecided": "cannot be told apart",
    "too_few": "too few rows",
}


class Verdict(Frozen):
    """Exactly one word, and the paragraph that says it with its numbers."""

    word: Word
    text: str
    comparison: PairedComparison
    p_value: float | None  # after Holm's correction for the comparisons that were judged together


def judge(comparisons: Sequence[PairedComparison]) -> list[Verdict]:
    """Judge comparisons that were asked for together, so that none is found by trying many.

    Raises:
        ValueError: a metric has no better way.
    """
    for comparison in comparisons:
        if comparison.better == "neither":
            raise ValueError(f"neither way is better by {comparison.metric}: it describes, and decides nothing")
    enough = [one for one in comparisons if one.clusters >= MIN_ROWS]
    apart = iter(holm([one.p_value if one.p_value is not None else 1.0 for one in enough]))
    alike = iter(holm([one.p_apart if one.p_apart is not None else 1.0 for one in enough]))
    return [_judge(one, next(apart), next(alike)) if one.clusters >= MIN_ROWS else _too_few(one) for one in comparisons]


def _judge(comparison: PairedComparison, p_value: float, p_apart: float) -> Verdict:
    assert comparison.difference is not None
    evidence = [one for one in (comparison.over_rows, comparison.over_seeds) if one is not None]
    is_clear = all(_excludes_zero(one.interval, comparison.difference) for one in evidence)
    word: Word = "undecided"
    margin = comparison.margin
    if margin is not None and p_apart < 1 - LEVEL and all(one.inner.is_within(margin) for one in evidence):
        word = "same"
    elif p_value < 1 - LEVEL and is_clear:
        word = "better" if (comparison.difference > 0) == (comparison.better == "higher") else "worse"
    text = _TEXTS[word](comparison)
    if word == "undecided" and is_clear:
        text += f" Chance alone makes such a difference among these comparisons with a probability of {p_value:.2g}."
    return Verdict(word=word, text=text, comparison=comparison, p_value=p_value)


def _too_few(comparison: PairedComparison) -> Verdict:
    text = (
        f"Too few rows for a verdict on {comparison.metric}: {comparison.clusters} that differ, of at least {MIN_ROWS}."
        f"{_means(comparison)}{_left_out(comparison)}"
    )
    return Verdict(word="too_few", text=text, comparison=comparison, p_value=None)


def _excludes_zero(interval: Interval, difference: float) -> bool:
    return interval.low > 0 if difference > 0 else interval.high < 0


def _differs(comparison: PairedComparison) -> str:
    is_better = (comparison.difference or 0) > 0
    word = "better" if is_better == (comparison.better == "higher") else "worse"
    return (
        f"{comparison.ours} is {word} than {comparison.theirs} on {comparison.metric}: {_difference(comparison)}."
        f"{_means(comparison)}{_scope(comparison)}{_left_out(comparison)}"
    )


def _same(comparison: PairedComparison) -> str:
    return (
        f"{comparison.ours} and {comparison.theirs} are the same on {comparison.metric} within {comparison.margin:g}:"
        f" {_difference(comparison)}.{_means(comparison)}{_scope(comparison)}{_left_out(comparison)}"
    )


def _undecided(comparison: PairedComparison) -> str:
    return (
        f"{comparison.ours} and {comparison.theirs} cannot be told apart on {comparison.metric}:"
        f" {_difference(comparison)}.{_needed(comparison)}{_means(comparison)}{_scope(comparison)}"
        f"{_left_out(comparison)}"
    )


def _difference(comparison: PairedComparison) -> str:
    assert comparison.difference is not None
    over_rows, over_seeds = comparison.over_rows, comparison.over_seeds
    assert over_rows is not None
    width = _width(over_rows)
    shown = (
        f"a difference of {_signed(comparison.difference, width)}, 95 % interval {_interval(over_rows)}"
        f" over {_count(comparison.rows, 'row')}"
    )
    if over_seeds is None:
        return f"{shown}, in this one run"
    return f"{shown} and {_interval(over_seeds)} over {_count(comparison.seeds, 'seed')}"


def _means(comparison: PairedComparison) -> str:
    if comparison.our_mean is None or comparison.their_mean is None or comparison.difference is None:
        return ""
    width = _width(comparison.over_rows) if comparison.over_rows is not None else abs(comparison.difference)
    ours, theirs = (_shown(mean, width) for mean in (comparison.our_mean, comparison.their_mean))
    way = "more" if comparison.better == "higher" else "less"
    return f" Means: {ours} and {theirs}; {way} is better."


def _scope(comparison: PairedComparison) -> str:
    repeated = comparison.rows - comparison.clusters
    return f" {_count(repeated, 'row')} repeat others and count with them." if repeated else ""


def _left_out(comparison: PairedComparison) -> str:
    if not comparison.left_out:
        return ""
    return f" Left out for want of a score of both: {_count(comparison.left_out, 'row')}."


def _needed(comparison: PairedComparison) -> str:
    """Say what would decide it: as much of each source of chance as is lacking."""
    assert comparison.over_rows is not None
    if comparison.margin is None and not comparison.difference:
        return " No difference was seen, so no number of rows is known that would show one."
    what = f"a difference of {_size(comparison)}"
    more_rows = comparison.over_rows.more
    more_seeds = comparison.over_seeds.more if comparison.over_seeds is not None else 0
    if more_rows is None or more_seeds is None:
        return f" No number of rows and seeds that anyone has would find {what}."
    lacking = [
        f"about {_count(_rough(number), noun)}"
        for number, noun in ((more_rows, "more row"), (more_seeds, "more seed"))
        if number
    ]
    if lacking:
        return f" Finding {what} would need {' and '.join(lacking)}."
    detectable = max(one.detectable or 0.0 for one in (comparison.over_rows, comparison.over_seeds) if one is not None)
    return f" A true difference of {_shown(detectable, detectable)} would show four times in five."


def _size(comparison: PairedComparison) -> str:
    """Write the difference that is looked for: δ, or without one that which was seen."""
    if comparison.margin is not None:
        return f"{comparison.margin:g}"
    size = abs(comparison.difference or 0.0)
    return _shown(size, size)


def _width(evidence: Evidence) -> float:
    return evidence.interval.high - evidence.interval.low


def _interval(evidence: Evidence) -> str:
    width = _width(evidence)
    return f"{_signed(evidence.interval.low, width)} to {_signed(evidence.interval.high, width)}"


def _signed(value: float, resolution: float) -> str:
    shown = _shown(value, resolution)
    return shown if shown.startswith("-") or not float(shown.replace(",", "")) else f"+{shown}"


def _shown(value: float, resolution: float) -> str:
    """Write a number with as many decimals as two digits of its resolution have."""
    decimals = 1 - math.floor(math.log10(resolution)) if resolution > 0 else 3
    shown = f"{value:,.{min(max(decimals, 0), 9)}f}"
    return shown.removeprefix("-") if not float(shown.replace(",", "")) else shown


def _rough(number: int) -> int:
    """Round up to two digits, as it is an estimate."""
    unit = int(f"1{'0' * (len(str(number)) - 2)}")
    return -(-number // unit) * unit


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


_TEXTS: Final = {"better": _differs, "worse": _differs, "same": _same, "undecided": _undecided}
