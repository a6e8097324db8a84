"""The runs of one trainer: what they share is loaded once, and they are trained in lock-step to the end of each.

A single run is the usual case, and takes the same way. What a run is, is ``worker.training.run``'s; whatever becomes
of one is its own affair.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from core.base_models.registry import DType
from worker.trainer_process.messages import PhaseStarted
from worker.trainer_process.run_folder import RunSpec, read_spec
from worker.training.data.examples import RunData
from worker.training.data.shared_examples import SharedExamples
from worker.training.lockstep import run_in_lockstep
from worker.training.measure.stopwatch import Phase, Stopwatch
from worker.training.model.memory import out_of_memory_named
from worker.training.preparation import SharedBase, load_run_data, load_shared_base, number_type_of, require_working_gpu
from worker.training.process.ranks import ALONE, Ranks
from worker.training.process.reporter import Reporter
from worker.training.process.stopping import CheckStop
from worker.training.run import PreparedRun, TrainerRun

Done = TypeVar("Done")
OnEnd = Callable[[int, Exception | None], None]


def run(
    run_folder: Path,
    reporter: Reporter,
    check_stop: CheckStop,
    stopwatch: Stopwatch | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train what ``spec.json`` says and leave the adapter in the run folder; the last message is `Finished`.

    Args:
        stopwatch: runs since the process's start; None: since now.
        ranks: this process among those that train in this folder. They have met, and each runs this.

    Raises:
        TrainingError: the run cannot go on.
        Stopped: the trainer was told to stop; a later run in this folder goes on from the checkpoint.
        PeerLost: another rank ended.
    """
    only = TrainerRun(run_folder.absolute(), reporter, check_stop, stopwatch or Stopwatch())
    [error] = run_together([only], ranks)
    if error is not None:
        raise error


def run_together(
    runs: Sequence[TrainerRun], ranks: Ranks = ALONE, on_end: OnEnd = lambda place, error: None
) -> list[Exception | None]:
    """Train some runs in this process, each as `run` does one; give what ended each of them, None where it is done.

    Runs of the same base model share it, and their examples where they are rendered alike; their adapters are those
    that each would have alone, up to rounding. Runs of another base, or in another number type, follow behind.

    Args:
        ranks: of several, there is one run.
        on_end: told when a run has ended: its place among them, and by what.
    """
    assert ranks.size == 1 or len(runs) == 1
    trainer = _Trainer(runs, ranks, on_end)
    trainer.train()
    return [trainer.endings[place] for place in range(len(runs))]


class _Trainer:
    """Runs are known by their places."""

    def __init__(self, runs: Sequence[TrainerRun], ranks: Ranks, on_end: OnEnd) -> None:
        self._runs, self._ranks, self._on_end = runs, ranks, on_end
        self._examples = SharedExamples()
        self.endings: dict[int, Exception | None] = {}

    def train(self) -> None:
        specs = self._each(range(len(self._runs)), self._read_spec)
        while specs:
            dtype, places = self._choose(specs)
            self._train_on_one_base({place: specs.pop(place) for place in places}, dtype)

    def _read_spec(self, place: int) -> RunSpec:
        spec = read_spec(self._runs[place].folder)
        require_working_gpu(os.environ)
        return spec

    def _choose(self, specs: dict[int, RunSpec]) -> tuple[DType, list[int]]:
        """Give those that share a base model with the first of them, and the number type to load it in."""
        base = _base_of(next(iter(specs.values())))
        dtypes = {
            place: number_type_of(self._runs[place].folder, spec)
            for place, spec in specs.items()
            if _base_of(spec) == base
        }
        begun_in = [dtype for dtype in dtypes.values() if dtype != "auto"]
        dtype = begun_in[0] if begun_in else "auto"
        return dtype, [place for place, own in dtypes.items() if own in ("auto", dtype)]

    def _train_on_one_base(self, specs: dict[int, RunSpec], dtype: DType) -> None:
        data = self._each(specs, lambda place: self._render(place, specs[place]))
        for place in data:
            self._enter(place, "loading")
        base = self._load(list(data), specs, dtype)
        if base is None:
            return
        prepared = self._each(data, lambda place: self._prepare(place, specs[place], data[place], base, len(data)))
        places = list(prepared)
        run_in_lockstep(
            [one.train() for one in prepared.values()], lambda number, ending: self._end(places[number], ending.error)
        )

    def _render(self, place: int, spec: RunSpec) -> RunData:
        one = self._runs[place]
        self._enter(place, "rendering")
        return load_run_data(one.folder, spec, one.reporter, one.check_stop, self._examples)

    def _load(self, places: Sequence[int], specs: dict[int, RunSpec], dtype: DType) -> SharedBase | None:
        """Load the base for these runs; None where all of them have ended, as it cannot be loaded."""
        try:
            with out_of_memory_named():
                return load_shared_base(specs[places[0]], dtype) if places else None
        except Exception as error:
            for place in places:
                self._end(place, error)
            return None

    def _prepare(self, place: int, spec: RunSpec, data: RunData, base: SharedBase, together: int) -> PreparedRun:
        one = self._runs[place]
        one.check_stop()
        return PreparedRun(one, spec, data, base, self._ranks, together)

    def _enter(self, place: int, phase: Phase) -> None:
        self._runs[place].stopwatch.enter(phase)
        self._runs[place].reporter.send(PhaseStarted(name=phase))

    def _each(self, places: Iterable[int], work: Callable[[int], Done]) -> dict[int, Done]:
        """Do some work for each run; those that it fails for have ended."""
        done: dict[int, Done] = {}
        for place in places:
            try:
                with out_of_memory_named():
                    done[place] = work(place)
            except Exception as error:
                self._end(place, error)
        return done

    def _end(self, place: int, error: Exception | None) -> None:
        self.endings[place] = error
        self._on_end(place, error)


def _base_of(spec: RunSpec) -> tuple[object, ...]:
    """Name what two runs must agree on to share a base."""
    return spec.base_model_folder, spec.base_model_fingerprint, spec.job.quantization, spec.kernels_folder
