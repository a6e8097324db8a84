import random

from core.text.lint.lengths import Lengths, quantile


def lengths_of(values: list[int]) -> Lengths:
    lengths = Lengths()
    for line, value in enumerate(values, start=1):
        lengths.add(value, line)
    return lengths


def test_percentiles_are_lengths_that_occur() -> None:
    percentiles = lengths_of(list(range(1, 101))).percentiles()
    assert percentiles is not None
    assert (percentiles.p5, percentiles.p25, percentiles.p50, percentiles.p75) == (5, 25, 50, 75)
    assert (percentiles.p95, percentiles.p99, percentiles.max) == (95, 99, 100)


def test_percentiles_do_not_depend_on_the_order() -> None:
    values = [random.Random(1).randrange(1000) for _ in range(500)]
    assert lengths_of(values).percentiles() == lengths_of(sorted(values)).percentiles()


def test_there_are_none_without_examples() -> None:
    assert lengths_of([]).percentiles() is None
    assert lengths_of([]).outliers() == (None, None)


def test_one_length_is_every_percentile_and_no_outlier() -> None:
    percentiles = lengths_of([7]).percentiles()
    assert percentiles is not None
    assert (percentiles.p5, percentiles.max) == (7, 7)
    assert lengths_of([7]).outliers() == (None, None)


def test_equal_lengths_make_only_twice_as_long_an_outlier() -> None:
    short, long = lengths_of([10] * 50 + [19, 20, 21, 6, 5, 4]).outliers()
    assert short is not None
    assert long is not None
    assert (long.nearest, long.count, long.lines) == (21, 1, (53,))
    assert (short.nearest, short.count, short.lines) == (4, 1, (56,))


def test_outer_fences_are_three_ranges_from_the_quartiles() -> None:
    # Quartiles 10 and 20: on the logarithm one range is a factor of 2, so the fences are 10 / 8 and 20 · 8.
    values = [10] * 40 + [20] * 40
    assert lengths_of([*values, 160, 2]).outliers() == (None, None)
    short, long = lengths_of([*values, 161, 1]).outliers()
    assert short is not None
    assert long is not None
    assert (short.nearest, long.nearest) == (1, 161)


def test_the_first_lines_of_many_outliers_are_named() -> None:
    _, long = lengths_of([10] * 1000 + [10_000 - n for n in range(30)]).outliers()
    assert long is not None
    assert (long.nearest, long.count) == (9971, 30)
    assert long.lines == tuple(range(1001, 1021))


def test_a_quantile_is_the_smallest_value_that_its_share_is_not_above() -> None:
    assert quantile({0.5: 1, 2.0: 1}, 0.5) == 0.5
    assert quantile({0.5: 1, 2.0: 2}, 0.5) == 2.0
    assert quantile({3: 1}, 1.0) == 3
