"""Runs that are trained together, in lock-step: in each round every run has one micro-batch computed.

A run is a generator. It yields each micro-batch that it wants computed and is sent what came of it; what it does
between, such as to take its steps, to evaluate and to write checkpoints, is its own. A run that fails or ends leaves
the others as they were. A run alone is the only one of its round.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.training.model.memory import is_out_of_memory
from worker.training.passes import Share, can_share, compute
from worker.training.process.loss_sums import LossSums

Got = TypeVar("Got")

SharedWork = Generator[Share, LossSums, Got]


class PassTooLarge(Exception):
    """Memory did not suffice for a pass of several runs: each begins its step anew, and fewer will share one."""


@dataclass(frozen=True)
class Ending(Generic[Got]):
    """How a run ended: with a value, or with what it raised."""

    value: Got | None = None
    error: Exception | None = None


def complete(work: SharedWork[Got]) -> Got:
    """Do one run's work alone, and give what it gives.

    Raises:
        Exception: whatever the work raises.
    """
    [ending] = run_in_lockstep([work])
    if ending.error is not None:
        raise ending.error
    return ending.value  # type: ignore[return-value]  # without an error it is what the work gave


def run_in_lockstep(
    works: Sequence[SharedWork[Got]],
    on_end: Callable[[int, Ending[Got]], None] = lambda place, ending: None,
) -> list[Ending[Got]]:
    """Do the work of some runs together, to the end of each; give how they ended.

    Args:
        on_end: told at once when a run ends, and which of them it is.
    """
    return _Rounds(works, on_end).run()


def share_out(asked: Mapping[int, Share], most_rows: int | None = None) -> list[list[int]]:
    """Put the micro-batches of a round into few passes, each with no more rows than memory has for a run alone.

    Args:
        asked: by the run's place.
        most_rows: of a pass of several, where that was still too much.
    """
    limit = max((share.most_rows for share in asked.values()), default=0)
    limit = limit if most_rows is None else min(limit, most_rows)
    passes: list[list[int]] = []
    for place, share in asked.items():
        for others in passes:
            shares = [asked[other] for other in others] + [share]
            if sum(one.rows for one in shares) <= limit and can_share(shares):
                others.append(place)
                break
        else:
            passes.append([place])
    return passes


class _Rounds(Generic[Got]):
    def __init__(self, works: Sequence[SharedWork[Got]], on_end: Callable[[int, Ending[Got]], None]) -> None:
        self._works, self._on_end = works, on_end
        self._asked: dict[int, Share] = {}  # by the run's place; those that still go on
        self._endings: dict[int, Ending[Got]] = {}
        self._most_rows: int | None = None

    def run(self) -> list[Ending[Got]]:
        for place in range(len(self._works)):
            self._go_on(place)
        while self._asked:
            for places in share_out(self._asked, self._most_rows):
                self._compute(places)
        return [self._endings[place] for place in range(len(self._works))]

    def _compute(self, places: Sequence[int]) -> None:
        shares = [self._asked[place] for place in places]
        try:
            sums = compute(shares)
        except Exception as error:
            if len(shares) > 1 and is_out_of_memory(error):
                self._most_rows = sum(share.rows for share in shares) // 2
                error = PassTooLarge()  # what it holds on to is let go
            for place in places:
                self._go_on(place, error=error)
            return
        for place, own in zip(places, sums, strict=True):
            self._go_on(place, own)

    def _go_on(self, place: int, sums: LossSums | None = None, error: Exception | None = None) -> None:
        """Let a run go on until it asks for its next micro-batch or ends."""
        work = self._works[place]
        try:
            if error is not None:
                self._asked[place] = work.throw(error)
            else:
                self._asked[place] = next(work) if sums is None else work.send(sums)
            return
        except StopIteration as end:
            ending = Ending[Got](end.value)
        except Exception as problem:
            ending = Ending[Got](error=problem)
        self._asked.pop(place, None)
        self._endings[place] = ending
        self._on_end(place, ending)
