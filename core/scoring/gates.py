"""Gates: what people write that a model must reach before it is promoted, and whether it does.

Two sentences are known: ``<metric> >= <number>`` (or ``<=``) and ``<metric> better than <model>``, in which the metric
may be left out where the run has a main one. A gate passes only
where the evidence holds it: the whole 95 % interval on the right side of the threshold, or the verdict ``better``. A
mean of 0.92 over thirty answers does not pass ``exact_match >= 0.9``, because a model that is right in 0.8 of all
cases gives that often enough, and a gate is what somebody relies on who is not looking. So that it need not be
guessed why a gate failed, the answer tells what is below for certain from what these rows cannot show.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from core.errors import InvalidParameter
from core.scoring.registry import METRICS, Metric
from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.mean_score import MeanScore
from core.scoring.verdict import Verdict
from core.values import Frozen

_WORD: Final = re.compile(r"\S+")
_FORMS: Final = '"<metric> >= <number>", "<metric> <= <number>" or "<metric> better than <model>"'


@dataclass(frozen=True)
class Threshold:
    """A metric's mean is to be at least, or at most, a number."""

    metric: Metric
    bound: Literal[">=", "<="]
    number: float


@dataclass(frozen=True)
class BetterThan:
    """The model is to be better on a metric than another one, which has a name."""

    metric: Metric
    model: str


Gate = Threshold | BetterThan


class GateAnswer(Frozen):
    """Whether a gate was passed, and why in a sentence. ``interval`` is the one it was decided by, where there is."""

    gate: str
    passed: bool
    interval: Interval | None
    text: str


def read_gate(text: str, param: str, main_metric: Metric) -> Gate:
    """Read one gate.

    Args:
        param: the request's field that holds it, as ``gates[1]``.
        main_metric: what ``better than <model>`` goes by.

    Raises:
        InvalidParameter: it is no gate; the sentence names the character where it ceases to be one.
    """
    words = list(_WORD.finditer(text))
    if not words:
        raise InvalidParameter(param, f"the gate is empty; write {_FORMS}")
    if words[0].group() == "better":
        return _better_than(text, param, main_metric, words)
    metric = _metric(param, words[0])
    if len(words) == 1:
        raise InvalidParameter(param, f"character {len(text) + 1}: the gate ends behind its metric; write {_FORMS}")
    if words[1].group() == "better":
        return _better_than(text, param, metric, words[1:])
    return _threshold(text, param, metric, words[1:])


def with_model(text: str, rename: Callable[[str], str]) -> str:
    """Write a gate with the model that it names called otherwise; a text that names none is given back."""
    words = text.split()
    if words[-2:-1] != ["than"]:
        return text
    named = rename(words[-1])
    return text if named == words[-1] else text.rstrip().removesuffix(words[-1]) + named


def answer_threshold(gate: Threshold, found: MeanScore) -> GateAnswer:
    """Hold a model's mean against a threshold; without an interval it is not passed."""
    written = f"{gate.metric.name} {gate.bound} {gate.number:g}"
    if found.mean is None or found.interval is None:
        text = f"Failed: {written} needs two different rows with a score, and there are {found.clusters}."
        return GateAnswer(gate=written, passed=False, interval=found.interval, text=text)
    low, high = found.interval.low, found.interval.high
    at_least = gate.bound == ">="
    passed = low >= gate.number if at_least else high <= gate.number
    is_beyond = high < gate.number if at_least else low > gate.number
    shown = f"{found.mean:.3f}, 95 % interval {low:.3f} to {high:.3f} over {found.rows:,} rows"
    if passed:
        text = f"Passed: {written}, with {shown}."
    elif is_beyond:
        text = f"Failed: {written} is not reached, with {shown}."
    else:
        text = f"Failed: {written} is not certain, with {shown}; more rows would narrow the interval."
    return GateAnswer(gate=written, passed=passed, interval=found.interval, text=text)


def answer_better_than(gate: BetterThan, verdict: Verdict) -> GateAnswer:
    """Hold a verdict on the gate's metric, of the model against the gate's, against the gate."""
    comparison = verdict.comparison
    assert (comparison.metric, comparison.theirs) == (gate.metric.name, gate.model)
    passed = verdict.word == "better"
    return GateAnswer(
        gate=f"{gate.metric.name} better than {gate.model}",
        passed=passed,
        interval=None if comparison.over_rows is None else comparison.over_rows.interval,
        text=f"{'Passed' if passed else 'Failed'}: {verdict.text}",
    )


def _metric(param: str, word: re.Match[str]) -> Metric:
    metric = METRICS.get(word.group())
    if metric is None:
        raise _misread(param, word, f"is no metric; there are {', '.join(METRICS)}")
    if metric.better == "neither":
        raise _misread(param, word, "describes, and neither more nor less of it is better")
    return metric


def _better_than(text: str, param: str, metric: Metric, words: list[re.Match[str]]) -> BetterThan:
    if len(words) > 1 and words[1].group() != "than":
        raise _misread(param, words[1], 'is not known here; write "better than <model>"')
    if len(words) < 3:
        raise InvalidParameter(param, f"character {len(text) + 1}: better than which model?")
    if len(words) > 3:
        raise _misread(param, words[3], "stands behind the model's name, which has no spaces")
    return BetterThan(metric, words[2].group())


def _threshold(text: str, param: str, metric: Metric, words: list[re.Match[str]]) -> Threshold:
    bound: Literal[">=", "<="] = ">=" if metric.better == "higher" else "<="
    written = words[0].group()
    if written not in (">=", "<="):
        raise _misread(param, words[0], f"is not known here; write {_FORMS}")
    if written != bound:
        raise _misread(param, words[0], f"asks {metric.name} to be worse; {metric.better} is better, so write {bound}")
    if len(words) == 1:
        raise InvalidParameter(param, f"character {len(text) + 1}: {bound} which number?")
    if len(words) > 2:
        raise _misread(param, words[2], "stands behind the number")
    try:
        number = float(words[1].group())
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _misread(param, words[1], "is no number")
    if not metric.smallest <= number <= metric.largest:
        raise _misread(param, words[1], f"is no {metric.name}: it is from {metric.smallest:g} to {metric.largest:g}")
    return Threshold(metric, bound, number)


def _misread(param: str, word: re.Match[str], reason: str) -> InvalidParameter:
    return InvalidParameter(param, f"character {word.start() + 1}: {word.group()!r} {reason}")
