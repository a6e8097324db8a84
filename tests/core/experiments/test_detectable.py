"""What an experiment could find, before it starts."""

import pytest

from core.experiments.detectable import smallest_detectable


def test_four_times_the_rows_halve_what_is_found() -> None:
    few, many = (smallest_detectable("exact_match", rows, 3) for rows in (250, 1000))
    assert few.over_rows == pytest.approx(2 * many.over_rows, rel=0.01)
    assert few.right_or_wrong == pytest.approx(few.over_rows * 0.1**0.5)
    assert many.over_rows == pytest.approx(2.8 / 1000**0.5, rel=0.01)


def test_two_seeds_find_next_to_nothing() -> None:
    two, three = (smallest_detectable("nats_per_token", 200, seeds).over_seeds for seeds in (2, 3))
    assert two is not None
    assert three is not None
    assert two > 5 * three / 2
    assert smallest_detectable("nats_per_token", 200, 1).over_seeds is None


def test_it_is_said_in_words() -> None:
    assert smallest_detectable("exact_match", 200, 3).text == (
        "A true difference on exact_match shows four times in five from 0.2 standard deviations of the rows' "
        "differences on, with 200 rows (a share of 0.063 where the two disagree on one row in ten), and from 3.3 of "
        "the seeds' on, with 3 seeds."
    )
    assert "too few for a verdict" in smallest_detectable("chrf", 99, 3).text
    assert smallest_detectable("chrf", 100, 1).text.endswith("One seed says nothing of how another training would go.")
