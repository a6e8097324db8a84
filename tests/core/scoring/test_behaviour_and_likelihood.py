"""Metrics of how a model answers, and of what it says of the reference itself."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.scoring.registry import METRICS, exact_match_by
from core.scoring.sample import Sample
from tests.core.scoring.samples import TEXTS, of

WHOLE: dict[str, Any] = {
    "answer": "one two three four",
    "reference": "1",
    "labels": frozenset({"1"}),
    "stopped": True,
    "logprobs": (-1.0, -0.5),
    "most_likely": (True, False),
}
LOGPROBS = st.lists(st.floats(-50, 0), min_size=1, max_size=20)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_where_something_it_needs_is_not_there_a_metric_is_null_and_never_0(metric: Any) -> None:
    assert metric.score(Sample(**WHOLE)) is not None
    for part in WHOLE:
        found = metric.score(Sample(**WHOLE | {part: None}))
        assert (found is None) == (part in metric.needs)


def test_a_metric_is_found_by_its_own_name_and_an_exact_match_says_what_does_not_count() -> None:
    assert all(metric.name == name for name, metric in METRICS.items())
    assert exact_match_by("json").score(of("[1.0]", "[1]")) == 1
    assert "JSON" in exact_match_by("json").meaning


@given(answer=TEXTS)
def test_repetition_is_the_share_of_runs_that_stood_there_before(answer: str) -> None:
    found = METRICS["repetition"].score(Sample(answer=answer))
    assert found is None or 0 <= found < 1
    assert METRICS["repetition"].score(Sample(answer="a b c d e f g")) == 0
    assert METRICS["repetition"].score(Sample(answer="a b c d " * 5)) == pytest.approx(1 - 4 / 17)
    assert METRICS["repetition"].score(Sample(answer="a b c")) is None


def test_lengths_are_compared_in_characters_and_there_is_no_ratio_to_nothing() -> None:
    assert METRICS["length_ratio"].score(of("日本語です", "日本")) == 2.5
    assert METRICS["length_ratio"].score(of("", "a")) == 0
    assert METRICS["length_ratio"].score(of("a", "")) is None


@given(LOGPROBS)
def test_nats_accuracy_and_probability_say_the_same_of_a_reference(logprobs: list[float]) -> None:
    sample = Sample(logprobs=tuple(logprobs), most_likely=tuple(one > -0.7 for one in logprobs))
    nats = METRICS["nats_per_token"].score(sample)
    probability = METRICS["reference_probability"].score(sample)
    assert nats is not None
    assert probability == pytest.approx(math.exp(-nats * len(logprobs)), rel=1e-9, abs=1e-300)
    assert METRICS["token_accuracy"].score(sample) == sum(one > -0.7 for one in logprobs) / len(logprobs)


def test_of_no_token_there_is_no_mean() -> None:
    nothing = Sample(logprobs=(), most_likely=())
    for name in ("nats_per_token", "token_accuracy", "reference_probability"):
        assert METRICS[name].score(nothing) is None


@pytest.mark.parametrize(
    ("reference", "tokens", "undefined"),
    [
        ("no number", 3, {"json_field_f1", "numeric_match", "label_accuracy"}),
        ("7", 1, {"label_accuracy"}),
        ("?!", 2, {"token_f1", "rouge_l", "json_field_f1", "numeric_match", "label_accuracy"}),
        ("7", 0, {"nats_per_token", "token_accuracy", "reference_probability", "label_accuracy"}),
    ],
)
def test_a_metric_is_defined_for_a_row_where_the_perfect_answer_has_a_score(
    reference: str, tokens: int, undefined: set[str]
) -> None:
    found = {name for name, metric in METRICS.items() if not metric.is_defined_for(reference, tokens=tokens)}
    assert found == undefined
    labels = frozenset({reference})
    assert METRICS["label_accuracy"].is_defined_for(reference, tokens=tokens, labels=labels)


def test_an_impossible_token_is_no_number_to_average_and_makes_the_whole_impossible() -> None:
    sample = Sample(logprobs=(-1.0, -math.inf))
    assert METRICS["nats_per_token"].score(sample) is None
    assert METRICS["reference_probability"].score(sample) == 0


@pytest.mark.parametrize("logprob", [0.1, math.nan])
def test_what_is_no_logarithm_of_a_probability_is_refused(logprob: float) -> None:
    with pytest.raises(ValidationError):
        Sample(logprobs=(logprob,))
