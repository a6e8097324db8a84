import math

import pytest

from core.scoring.statistics.pairs import cluster, pair


def test_a_row_that_one_model_or_one_seed_lacks_is_left_out_of_all_and_counted() -> None:
    found = pair([[1.0, 2.0, None, 4.0], [1.0, 2.0, 3.0, 4.0]], [[0.0, 0.0, 0.0, math.nan]] * 2, "abcd")
    assert (found.ours.rows, found.ours.left_out) == (2, 2)
    assert found.ours.seed_means.tolist() == [1.5, 1.5]
    assert found.differences.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_rows_of_a_cluster_are_summed_by_their_weights() -> None:
    found = cluster([[1.0, 2.0, 3.0]], ["a", "b", "a"], [1, 1, 3])
    assert found.sums_SC.tolist() == [[10.0, 2.0]]
    assert found.weights_C.tolist() == [4.0, 1.0]
    assert found.mean == 12 / 5


def test_a_row_of_no_weight_counts_as_one_without_a_score() -> None:
    found = cluster([[1.0, 2.0]], "ab", [0, 1])
    assert (found.rows, found.left_out, found.mean) == (1, 1, 2.0)


def test_of_no_row_there_is_no_mean() -> None:
    found = cluster([[None, math.inf]], "ab")
    assert (found.rows, found.left_out, found.mean, found.count) == (0, 2, None, 0)
    assert cluster([[]], "").mean is None


def test_what_is_not_of_the_same_rows_and_seeds_is_refused() -> None:
    for ours, theirs, clusters in (
        ([[1.0]], [[1.0, 2.0]], "a"),
        ([[1.0]], [[1.0], [2.0]], "a"),
        ([], [], "a"),
        ([[1.0]], [[1.0]], "ab"),
    ):
        with pytest.raises(ValueError, match=r"seed"):
            pair(ours, theirs, clusters)
    with pytest.raises(ValueError, match="for each of the same rows"):
        cluster([[1.0]], "a", [1, 2])
