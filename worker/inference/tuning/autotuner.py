"""Trials that choose between ways of computing: one budget of seconds, one memory, one record of what was decided.

What is remembered is not tried. What cannot be decided, because the budget is used or the machine is busy with other
things, has its default, and is tried again when the engine has nothing to do. Knows neither what is tried nor how the
times decide: each `Trial` does. Whether what is computed is right is no trial: it is checked at every start.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from worker.inference.tuning.memory import TuningMemory
from worker.inference.tuning.trial_timer import TrialTimer
from worker.inference.tuning.waiting import waited_s

logger = logging.getLogger(__name__)

BUDGET_S: Final = 10.0  # for all trials of one time together; a try that is under way when it ends is waited for
BUSY: Final = 0.1  # of a trial's time that threads waited for a core: it then says more of others than of this engine
_LEAST_S: Final = 0.1  # of which that share is taken: a single wait in a trial of milliseconds means nothing
FIRST_IDLE_S: Final = 5.0  # without a request, until trials are made; doubled each time that they decide nothing
LONGEST_IDLE_S: Final = 3600.0

T = TypeVar("T")


@dataclass(frozen=True)
class Trial(Generic[T]):
    """Something that times decide.

    Attributes:
        name: of what is decided, for the log and the memory.
        kind: its type, with its bounds: what is remembered must be of it.
        default: what holds as long as nothing is decided; None: nothing does.
        find: decides by times of this timer.
        use: makes a decision hold.
    """

    name: str
    kind: TypeAdapter[T]
    default: T | None
    find: Callable[[TrialTimer], T]
    use: Callable[[T], None]


class _Undecided(Exception):
    """Why a trial ends without a decision."""


class Autotuner:
    """The trials of one engine. At the start one thread may use it, and then the engine's own."""

    def __init__(
        self,
        trials: Sequence[Trial[Any]],
        memory: TuningMemory,
        device: torch.device,
        *,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float] = waited_s,
    ) -> None:
        self._left = list(trials)  # what is not decided
        self._memory = memory
        self._device = device
        self._budget_s = budget_s
        self._clock = clock
        self._waited = waited
        self._decided: dict[str, Any] = {}  # as JSON, by name
        self._attempts = 0

    @property
    def undecided(self) -> tuple[str, ...]:
        """Names of what has its default."""
        return tuple(trial.name for trial in self._left)

    @property
    def idle_s(self) -> float | None:
        """How long an engine has to be idle until it should try again; None: all is decided."""
        return min(LONGEST_IDLE_S, FIRST_IDLE_S * 2**self._attempts) if self._left else None

    def recall(self) -> None:
        """Use what is remembered, and the defaults of the rest."""
        self._recall()
        for trial in self._left:
            if trial.default is not None:
                trial.use(trial.default)

    def try_left(self) -> None:
        """Try what is not decided, at the start."""
        self._try_all(lambda: False)

    def try_again(self, is_wanted: Callable[[], bool]) -> None:
        """Try what is still not decided, until the engine is wanted for something else."""
        self._attempts += 1
        self._try_all(is_wanted)

    def _recall(self) -> None:
        remembered = self._memory.read()
        for trial in [trial for trial in self._left if trial.name in remembered]:
            try:
                value = trial.kind.validate_python(remembered[trial.name])
            except ValidationError:
                logger.warning("What is remembered as %s is not used: it cannot be right", trial.name)
                continue
            self._decide(trial, value)
        if self._decided:
            logger.info("remembered from an earlier start: %s", _say(self._decided))

    def _try_all(self, is_wanted: Callable[[], bool]) -> None:
        if not self._left:
            return
        began_s, before = self._clock(), set(self._decided)
        reason: str | None = None
        for trial in tuple(self._left):
            look = self._look(began_s + self._budget_s, is_wanted)
            try:
                value = trial.find(TrialTimer(self._device, clock=self._clock, look=look))
                look()
            except _Undecided as why:
                reason = str(why)  # the error itself holds all that was tried with
                break
            self._decide(trial, value)
        new = {name: value for name, value in self._decided.items() if name not in before}
        if new:
            logger.info("found by %.1f s of trials: %s", self._clock() - began_s, _say(new))
            self._memory.write(self._decided)
        if reason is not None:
            defaults = {trial.name: "not known" if trial.default is None else trial.default for trial in self._left}
            logger.warning(
                "not decided, because %s; tried again when the engine is idle, until then: %s", reason, _say(defaults)
            )

    def _look(self, ends_s: float, is_wanted: Callable[[], bool]) -> Callable[[], None]:
        """Make what looks, before each try of one trial and after the last, whether the trial still makes sense."""
        began_s, waited_before_s = self._clock(), self._waited()

        def look() -> None:
            now_s = self._clock()
            elapsed_s, waited_s = now_s - began_s, self._waited() - waited_before_s
            if waited_s > BUSY * max(elapsed_s, _LEAST_S):
                raise _Undecided(
                    f"the machine is busy (threads waited {waited_s:.2f} s for a core in {elapsed_s:.2f} s)"
                )
            if now_s > ends_s:
                raise _Undecided(f"the {self._budget_s:g} s for trials are used")
            if is_wanted():
                raise _Undecided("requests came")

        return look

    def _decide(self, trial: Trial[Any], value: Any) -> None:
        trial.use(value)
        self._left.remove(trial)
        self._decided[trial.name] = trial.kind.dump_python(value, mode="json")


def _say(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in values.items())
