from core.ratio import ratio


def test_a_part_of_nothing_is_no_number() -> None:
    assert ratio(0, 0) is None
    assert ratio(0.0, 0.0) is None


def test_nothing_of_something_is_0() -> None:
    assert ratio(0, 4) == 0.0
    assert ratio(3, 4) == 0.75
