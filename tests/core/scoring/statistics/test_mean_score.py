import numpy as np
import pytest

from core.scoring.registry import METRICS
from core.scoring.statistics.mean_score import mean_score

EXACT = METRICS["exact_match"]


@pytest.mark.parametrize("name", ["exact_match", "token_f1"])
def test_a_model_that_was_right_on_all_of_a_few_rows_need_not_be_right_on_all(name: str) -> None:
    for scores in ([1.0] * 20, [0.0] * 20):
        found = mean_score(METRICS[name], [scores], range(20))
        assert found.mean == scores[0]
        assert found.interval is not None
        assert found.interval.holds(scores[0])
        assert 0.15 < found.interval.high - found.interval.low < 0.4


def test_its_interval_holds_a_share_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for trial in range(400):
        rows = (random.random(60) < 0.9).astype(float).tolist()
        interval = mean_score(EXACT, [rows], range(60), resamples=500, seed=trial).interval
        held += interval is not None and interval.holds(0.9)
    assert held / 400 > 0.92


def test_of_no_row_there_is_no_mean_and_of_one_no_interval() -> None:
    nothing, one = mean_score(EXACT, [[None]], "a"), mean_score(EXACT, [[1.0]], "a")
    assert (nothing.mean, nothing.interval, nothing.left_out) == (None, None, 1)
    assert (one.mean, one.interval) == (1.0, None)


def test_tokens_weigh_where_the_metric_is_one_of_tokens() -> None:
    found = mean_score(METRICS["nats_per_token"], [[1.0, 3.0]], "ab", [3, 1])
    assert found.mean == 1.5
