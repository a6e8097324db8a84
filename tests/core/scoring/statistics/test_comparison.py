"""All numbers of one comparison."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from core.scoring.registry import METRICS, Metric
from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.comparison import Arm, PairedComparison, compare

EXACT, F1, NATS = METRICS["exact_match"], METRICS["token_f1"], METRICS["nats_per_token"]


def compared(metric: Metric, ours: Sequence[Any], theirs: Sequence[Any], **others: Any) -> PairedComparison:
    """Compare by each seed's scores, or by one seed's."""
    ours, theirs = ([scores] if not isinstance(scores[0], list) else scores for scores in (list(ours), list(theirs)))
    clusters = others.pop("clusters_N", range(len(ours[0])))
    return compare(metric, Arm(name="a", scores_SN=ours), Arm(name="b", scores_SN=theirs), clusters, **others)


class TestPairing:
    def test_what_both_models_find_hard_does_not_blur_their_difference(self) -> None:
        """Paired, a tenth of a nat shows in rows that scatter by one; taken apart, it does not."""
        random = np.random.default_rng(0)
        hard = random.gamma(2, 1, 300)
        ours, theirs = hard + 0.01 * random.standard_normal(300), hard + 0.1 + 0.01 * random.standard_normal(300)
        found = compared(NATS, ours.tolist(), theirs.tolist())
        assert found.difference == pytest.approx(-0.1, abs=0.01)
        assert found.over_rows is not None
        assert found.over_rows.interval.high - found.over_rows.interval.low < 0.005
        assert found.p_value is not None
        assert found.p_value < 1e-3
        unpaired = 1.96 * math.sqrt((ours.var() + theirs.var()) / 300)
        assert unpaired > 0.1

    def test_the_interval_of_a_paired_difference_is_students_where_differences_are_normal(self) -> None:
        stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
        random = np.random.default_rng(1)
        differences = 0.02 + 0.1 * random.standard_normal(400)
        base = random.random(400)
        found = compared(NATS, (base + differences).tolist(), base.tolist(), margin=0.04)
        expected = stats.ttest_1samp(differences, 0)
        interval = expected.confidence_interval(0.95)
        assert found.over_rows is not None
        assert found.over_rows.interval.low == pytest.approx(interval.low, abs=4e-4)
        assert found.over_rows.interval.high == pytest.approx(interval.high, abs=4e-4)
        assert found.p_value == pytest.approx(expected.pvalue, abs=3e-3)
        one_sided = [
            stats.ttest_1samp(differences, end, alternative=way).pvalue
            for end, way in ((-0.04, "greater"), (0.04, "less"))
        ]
        assert found.p_apart == pytest.approx(max(one_sided), abs=1e-3)

    def test_a_row_that_is_repeated_is_no_further_evidence(self) -> None:
        random = np.random.default_rng(2)
        ours, theirs = random.random(200).tolist(), random.random(200).tolist()
        once = compared(F1, ours, theirs)
        repeated = compared(F1, ours * 3, theirs * 3, clusters_N=[*range(200)] * 3)
        assert (repeated.rows, repeated.clusters) == (600, 200)
        assert repeated.p_value == pytest.approx(once.p_value)
        assert once.over_rows is not None
        assert repeated.over_rows is not None
        assert repeated.over_rows.interval.low == pytest.approx(once.over_rows.interval.low)
        assert repeated.over_rows.detectable == pytest.approx(once.over_rows.detectable)


class TestIdenticalArms:
    @pytest.mark.parametrize("metric", [EXACT, F1, NATS])
    def test_they_differ_by_exactly_0(self, metric: Metric) -> None:
        scores = [float(row % 3 == 0) for row in range(300)]
        found = compared(metric, scores, scores, margin=0.05)
        assert found.difference == 0
        assert found.p_value == 1
        assert found.over_rows is not None
        assert found.over_rows.interval.holds(0)

    def test_of_shares_a_few_rows_that_are_all_alike_do_not_make_certain(self) -> None:
        """None of 100 rows differs: up to 3 % of all rows might (the rule of three)."""
        for metric in (EXACT, F1):
            found = compared(metric, [1.0] * 100, [1.0] * 100, margin=0.05)
            assert found.over_rows is not None
            assert 0.02 < found.over_rows.interval.high < 0.04
            assert found.over_rows.interval.low == -found.over_rows.interval.high

    def test_constant_differences_of_a_metric_without_bounds_are_certain(self) -> None:
        found = compared(NATS, [1.5] * 120, [1.0] * 120)
        assert found.over_rows is not None
        assert found.over_rows.interval == Interval(low=0.5, high=0.5)
        assert found.over_rows.detectable is None
        assert found.over_rows.more == 0


class TestFewRows:
    def test_of_none_there_is_nothing(self) -> None:
        found = compared(EXACT, [None], [1.0])
        assert (found.our_mean, found.difference, found.over_rows, found.p_value) == (None,) * 4
        assert (found.rows, found.left_out) == (0, 1)

    def test_of_one_there_is_a_difference_and_no_interval(self) -> None:
        found = compared(EXACT, [1.0], [0.0])
        assert (found.difference, found.over_rows, found.p_value) == (1.0, None, None)

    def test_two_say_little(self) -> None:
        found = compared(EXACT, [1.0, 1.0], [0.0, 0.0])
        assert found.p_value == 0.25
        assert found.over_rows is not None
        assert found.over_rows.interval.low <= 0

    def test_rows_without_a_score_are_left_out_in_pairs_and_counted(self) -> None:
        found = compared(F1, [0.5, None, 0.5, 1.0], [0.0, 0.5, math.nan, 0.5])
        assert (found.rows, found.left_out, found.our_mean, found.their_mean) == (2, 2, 0.75, 0.25)


class TestSeeds:
    def test_their_interval_is_students_over_the_differences_of_their_means(self) -> None:
        stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
        random = np.random.default_rng(3)
        ours, theirs = random.random((4, 150)), random.random((4, 150))
        found = compared(F1, ours.tolist(), theirs.tolist())
        by_seed = (ours - theirs).mean(axis=1)
        expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
        assert found.seeds == 4
        assert found.difference == pytest.approx(by_seed.mean())
        assert found.over_seeds is not None
        assert found.over_seeds.interval.low == pytest.approx(expected.low)
        assert found.over_seeds.interval.high == pytest.approx(expected.high)

    def test_one_seed_says_nothing_of_seeds(self) -> None:
        assert compared(F1, [0.1, 0.2], [0.2, 0.3]).over_seeds is None

    def test_seeds_that_all_agree_need_no_more(self) -> None:
        found = compared(NATS, [[1.0, 2.0]] * 3, [[0.5, 1.0]] * 3)
        assert found.over_seeds is not None
        assert found.over_seeds.interval == Interval(low=0.75, high=0.75)
        assert found.over_seeds.more == 0


class TestWhatWouldBeNeeded:
    def test_as_many_more_rows_as_said_would_make_the_margin_detectable(self) -> None:
        random = np.random.default_rng(4)
        differences, base = 0.1 * random.standard_normal(200), random.random(200)
        found = compared(NATS, (base + differences).tolist(), base.tolist(), margin=0.01)
        assert found.over_rows is not None
        assert found.over_rows.detectable is not None
        assert found.over_rows.more is not None
        # with n times the rows a difference shows that is smaller by the root of n
        expected = 200 * (found.over_rows.detectable / 0.01) ** 2
        assert 200 + found.over_rows.more == pytest.approx(expected, rel=0.01)

    def test_no_number_of_rows_shows_a_difference_that_was_not_there(self) -> None:
        found = compared(EXACT, [1.0, 0.0] * 100, [1.0, 0.0] * 100)
        assert found.over_rows is not None
        assert found.over_rows.more is None

    def test_a_margin_is_above_0(self) -> None:
        for margin in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="above 0"):
                compared(F1, [0.0], [0.0], margin=margin)
