"""Whose micro-batch is computed when, and with whose; no model is needed for that."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker.training import lockstep
from worker.training.lockstep import Ending, SharedWork, complete, run_in_lockstep, share_out
from worker.training.process.loss_sums import LossSums


def share(rows: int, *, most_rows: int = 100, joins: bool = True) -> Any:
    return SimpleNamespace(rows=rows, most_rows=most_rows, model=SimpleNamespace(joins=joins))


@pytest.mark.parametrize(
    ("rows", "joins", "most_rows", "expected"),
    [
        ([30, 30, 30], [True] * 3, None, [[0, 1, 2]]),
        ([60, 30, 60, 30], [True] * 4, None, [[0, 1], [2, 3]]),
        ([60, 60, 40], [True] * 3, None, [[0, 2], [1]]),
        ([120, 90], [True] * 2, None, [[0], [1]]),  # one example may be longer than the budget
        ([30, 30, 30], [True, False, True], None, [[0, 2], [1]]),
        ([30, 30, 30], [True] * 3, 60, [[0, 1], [2]]),
        ([], [], None, []),
    ],
)
def test_a_pass_has_no_more_rows_than_one_runs_own(
    rows: list[int], joins: list[bool], most_rows: int | None, expected: list[list[int]]
) -> None:
    asked = {place: share(n, joins=own) for place, (n, own) in enumerate(zip(rows, joins, strict=True))}
    assert share_out(asked, most_rows) == expected


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each pass."""
    found: list[list[int]] = []

    def compute(shares: list[Any]) -> list[LossSums]:
        found.append([one.rows for one in shares])
        return [LossSums(weight=one.rows) for one in shares]

    monkeypatch.setattr(lockstep, "compute", compute)
    return found


def work(*rows: int, fails_after: int | None = None) -> SharedWork[float]:
    total = 0.0
    for number, own in enumerate(rows):
        if number == fails_after:
            raise ValueError("it cannot go on")
        sums = yield share(own)
        total += sums.weight
    return total


def test_each_round_has_one_micro_batch_of_each(computed: list[list[int]]) -> None:
    ended: list[int] = []
    endings = run_in_lockstep([work(1, 2, 3), work(10), work(20, 30)], lambda place, _: ended.append(place))
    assert computed == [[1, 10, 20], [2, 30], [3]]
    assert [ending.value for ending in endings] == [6.0, 10.0, 50.0]
    assert ended == [1, 2, 0]


def test_one_that_fails_is_told_of_at_once_and_the_others_go_on(computed: list[list[int]]) -> None:
    told: list[tuple[int, Ending[float], int]] = []
    run_in_lockstep(
        [work(1, 2, fails_after=1), work(3, 4)], lambda place, end: told.append((place, end, len(computed)))
    )
    assert [(place, type(end.error), passes) for place, end, passes in told] == [(0, ValueError, 1), (1, type(None), 2)]
    assert computed == [[1, 3], [4]]


def test_alone_it_raises_what_the_work_raises(computed: list[list[int]]) -> None:
    assert complete(work(5, 6)) == 11.0
    with pytest.raises(ValueError, match="cannot go on"):
        complete(work(5, 6, fails_after=1))
    assert computed == [[5], [6], [5]]


def test_what_a_pass_fails_with_is_raised_in_each_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(_: object) -> list[LossSums]:
        raise OSError("the disk is full")

    monkeypatch.setattr(lockstep, "compute", compute)
    endings = run_in_lockstep([work(1), work(2)])
    assert [type(ending.error) for ending in endings] == [OSError, OSError]
