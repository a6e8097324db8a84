"""What a comparison's numbers mean, in words."""

from typing import Any

import pytest

from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.comparison import Evidence, PairedComparison
from core.scoring.verdict import Verdict, judge


def evidence(low: float, high: float, detectable: float | None = None, more: int | None = 0) -> Evidence:
    """Make evidence whose inner interval is 16 % narrower, as that of a normal distribution is."""
    cut = 0.08 * (high - low)
    return Evidence(
        interval=Interval(low=low, high=high),
        inner=Interval(low=low + cut, high=high - cut),
        detectable=detectable,
        more=more,
    )


def comparison(**others: Any) -> PairedComparison:
    fields: dict[str, Any] = {
        "metric": "exact_match",
        "better": "higher",
        "ours": "w = 0",
        "theirs": "w = 1",
        "rows": 1240,
        "left_out": 0,
        "clusters": 1240,
        "seeds": 1,
        "our_mean": 0.92,
        "their_mean": 0.78,
        "difference": 0.14,
        "margin": None,
        "over_rows": evidence(0.11, 0.17),
        "over_seeds": None,
        "p_value": 1e-4,
        "p_apart": None,
    }
    return PairedComparison.model_validate(fields | others)


NATS: dict[str, Any] = {"metric": "nats_per_token", "better": "lower", "our_mean": 0.44, "their_mean": 0.61}
SEEN = {
    "better": comparison(),
    "better over seeds, less is better": comparison(
        **NATS, difference=-0.17, over_rows=evidence(-0.25, -0.09), over_seeds=evidence(-0.22, -0.12), seeds=3
    ),
    "worse": comparison(
        our_mean=0.78, their_mean=0.92, difference=-0.14, over_rows=evidence(-0.17, -0.11), clusters=1200, left_out=3
    ),
    "the same": comparison(
        our_mean=0.921,
        their_mean=0.917,
        difference=0.004,
        margin=0.02,
        over_rows=evidence(-0.005, 0.013),
        p_value=0.4,
        p_apart=0.001,
    ),
    "undecided for want of rows": comparison(
        our_mean=0.921, their_mean=0.911, difference=0.01, over_rows=evidence(-0.01, 0.03, 0.028, 9700), p_value=0.3
    ),
    "undecided for want of seeds": comparison(over_seeds=evidence(-0.04, 0.32, 0.4, 4), seeds=2),
    "undecided, and a margin was stated": comparison(
        our_mean=0.921,
        their_mean=0.911,
        difference=0.01,
        margin=0.02,
        over_rows=evidence(-0.01, 0.03, 0.028, 1190),
        p_value=0.3,
        p_apart=0.2,
    ),
    "undecided though there are enough rows": comparison(
        our_mean=0.921,
        their_mean=0.911,
        difference=0.01,
        margin=0.05,
        over_rows=evidence(-0.03, 0.06, 0.04, 0),
        p_value=0.3,
        p_apart=0.06,
    ),
    "undecided, as no row differs": comparison(
        our_mean=0.5, their_mean=0.5, difference=0.0, over_rows=evidence(-0.003, 0.003, 0.003, None), p_value=1.0
    ),
    "too few": comparison(rows=64, clusters=60, over_rows=evidence(0.02, 0.26)),
    "too few, none": comparison(
        rows=0, clusters=0, left_out=40, our_mean=None, their_mean=None, difference=None, over_rows=None, p_value=None
    ),
}
GOLDEN = {
    "better": (
        "w = 0 is better than w = 1 on exact_match: a difference of +0.140, 95 % interval +0.110 to "
        "+0.170 over 1,240 rows, in this one run. Means: 0.920 and 0.780; more is better."
    ),
    "better over seeds, less is better": (
        "w = 0 is better than w = 1 on nats_per_token: a difference of -0.17, 95 % interval -0.25 to "
        "-0.09 over 1,240 rows and -0.22 to -0.12 over 3 seeds. Means: 0.44 and 0.61; less is better."
    ),
    "worse": (
        "w = 0 is worse than w = 1 on exact_match: a difference of -0.140, 95 % interval -0.170 to -0.110 "
        "over 1,240 rows, in this one run. Means: 0.780 and 0.920; more is better. 40 rows repeat others "
        "and count with them. Left out for want of a score of both: 3 rows."
    ),
    "the same": (
        "w = 0 and w = 1 are the same on exact_match within 0.02: a difference of +0.004, 95 % interval "
        "-0.005 to +0.013 over 1,240 rows, in this one run. Means: 0.921 and 0.917; more is better."
    ),
    "undecided for want of rows": (
        "w = 0 and w = 1 cannot be told apart on exact_match: a difference of +0.010, 95 % interval "
        "-0.010 to +0.030 over 1,240 rows, in this one run. Finding a difference of 0.010 would need "
        "about 9,700 more rows. Means: 0.921 and 0.911; more is better."
    ),
    "undecided for want of seeds": (
        "w = 0 and w = 1 cannot be told apart on exact_match: a difference of +0.140, 95 % interval "
        "+0.110 to +0.170 over 1,240 rows and -0.04 to +0.32 over 2 seeds. Finding a difference of 0.14 "
        "would need about 4 more seeds. Means: 0.920 and 0.780; more is better."
    ),
    "undecided, and a margin was stated": (
        "w = 0 and w = 1 cannot be told apart on exact_match: a difference of +0.010, 95 % interval "
        "-0.010 to +0.030 over 1,240 rows, in this one run. Finding a difference of 0.02 would need about "
        "1,200 more rows. Means: 0.921 and 0.911; more is better."
    ),
    "undecided though there are enough rows": (
        "w = 0 and w = 1 cannot be told apart on exact_match: a difference of +0.010, 95 % interval "
        "-0.030 to +0.060 over 1,240 rows, in this one run. A true difference of 0.040 would show four "
        "times in five. Means: 0.921 and 0.911; more is better."
    ),
    "undecided, as no row differs": (
        "w = 0 and w = 1 cannot be told apart on exact_match: a difference of 0.0000, 95 % interval "
        "-0.0030 to +0.0030 over 1,240 rows, in this one run. No difference was seen, so no number of "
        "rows is known that would show one. Means: 0.5000 and 0.5000; more is better."
    ),
    "too few": (
        "Too few rows for a verdict on exact_match: 60 that differ, of at least 100. Means: 0.92 and "
        "0.78; more is better."
    ),
    "too few, none": (
        "Too few rows for a verdict on exact_match: 0 that differ, of at least 100. Left out for want of "
        "a score of both: 40 rows."
    ),
}


def verdict(one: PairedComparison) -> Verdict:
    [found] = judge([one])
    return found


@pytest.mark.parametrize("case", SEEN)
def test_it_is_said_in_these_words(case: str) -> None:
    assert verdict(SEEN[case]).text == GOLDEN[case]


@pytest.mark.parametrize("case", SEEN)
def test_the_word_is_the_cases(case: str) -> None:
    word = verdict(SEEN[case]).word
    assert case.replace("the same", "same").replace("too few", "too_few").startswith(word)


def test_a_verdict_of_better_needs_both_intervals() -> None:
    assert verdict(comparison(over_rows=evidence(-0.01, 0.29))).word == "undecided"
    assert verdict(comparison(over_seeds=evidence(-0.01, 0.29), seeds=3)).word == "undecided"
    assert verdict(comparison(over_seeds=evidence(0.01, 0.27), seeds=3)).word == "better"


def test_an_interval_that_excludes_nothing_but_0_on_the_wrong_side_proves_nothing() -> None:
    assert verdict(comparison(over_seeds=evidence(-0.3, -0.1), seeds=3)).word == "undecided"


def test_what_is_surely_within_the_margin_is_the_same_even_where_it_is_surely_not_0() -> None:
    small = comparison(difference=0.01, over_rows=evidence(0.005, 0.015), margin=0.05, p_apart=1e-4)
    assert verdict(small).word == "same"
    assert verdict(small.model_copy(update={"margin": None, "p_apart": None})).word == "better"


def test_the_same_needs_a_stated_margin_and_both_intervals_within_it() -> None:
    alike = comparison(difference=0.0, over_rows=evidence(-0.01, 0.01), p_value=1.0)
    assert verdict(alike).word == "undecided"
    stated = alike.model_copy(update={"margin": 0.02, "p_apart": 1e-4})
    assert verdict(stated).word == "same"
    assert verdict(stated.model_copy(update={"over_seeds": evidence(-0.05, 0.05), "seeds": 2})).word == "undecided"


def test_comparisons_that_are_judged_together_need_more_to_be_found() -> None:
    doubtful = comparison(p_value=0.03)
    assert verdict(doubtful).word == "better"
    together = judge([doubtful, comparison(p_value=0.6), comparison(rows=50, clusters=50)])
    assert [one.word for one in together] == ["undecided", "undecided", "too_few"]
    assert [one.p_value for one in together] == [0.06, 0.6, None]
    assert together[0].text.endswith("among these comparisons with a probability of 0.06.")


def test_rows_that_repeat_others_do_not_make_a_hundred() -> None:
    assert verdict(comparison(rows=400, clusters=99)).word == "too_few"
    assert verdict(comparison(rows=400, clusters=100)).word == "better"


def test_a_metric_that_only_describes_decides_nothing() -> None:
    with pytest.raises(ValueError, match="neither way is better by length_ratio"):
        judge([comparison(metric="length_ratio", better="neither")])
