"""One measurement: what is asked of a process of its own, and what it answers. Knows no trainer and no torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from core.base_models.registry import DType


class _Json:
    """A dataclass on one line of JSON, to and from another process."""

    def to_json(self) -> str:
        return TypeAdapter(type(self)).dump_json(self).decode()

    @classmethod
    def from_json(cls, line: str) -> Self:
        return TypeAdapter(cls).validate_json(line)


@dataclass(frozen=True)
class MeasurementRequest(_Json):
    """Train one epoch.

    Attributes:
        examples: a sample of the rows, spread over the lengths as all are.
        is_scored: the held-out rows are scored afterwards, which takes longer than training on as many.
        without: techniques of ours that are off.
        token_budget: the most tokens of one micro-batch of ours; None: as a job chooses it.
        rows_at_once: the rows of a rival's micro-batch; None: all of a step.
        dtype: what it computes in; "auto" is what is fastest on the machine.
        warms_up: a step is taken before, with a model of its own, that does not count: a GPU's first one is slow.
    """

    trainer: str
    base: str
    rows: str
    targets: tuple[str, ...]
    examples: int
    rows_per_step: int
    learning_rate: float
    seed: int
    is_scored: bool = False
    without: tuple[str, ...] = ()
    token_budget: int | None = None
    rows_at_once: int | None = None
    warms_up: bool = False
    dtype: DType = "auto"
    began_unix_s: float = field(default_factory=time.time)

    @property
    def base_folder(self) -> Path:
        return Path(self.base)

    @property
    def micro_batch_rows(self) -> int:
        return self.rows_at_once or self.rows_per_step


@dataclass(frozen=True)
class Measurement(_Json):
    """What one process found.

    Attributes:
        dtype: what it computed in.
        useful_tokens: of the rows that were trained on, padding not counted.
        trained_tokens: those of them that are completions, which are what is to be learnt.
        step_s: of each optimizer step, from the end of the one before it.
        startup_s: from the process's start to its first step.
        peak_memory_bytes: of the process, or of the GPU; scoring not included.
        roofline_s: what these steps' frozen products take, computed in full, at the rate of the machine's products of
            these shapes; of ours only. See ``benchmarks.training.roofline`` for this and the next two.
        needed_s: the same for the work that cannot be skipped alone.
        peak_s: the same at the rate of the fastest product.
    """

    trainer: str
    dtype: str
    without: tuple[str, ...]
    examples: int
    useful_tokens: int
    trained_tokens: int
    step_s: tuple[float, ...]
    startup_s: float
    peak_memory_bytes: int
    load: float
    held_out_loss: float | None = None
    roofline_s: float | None = None
    needed_s: float | None = None
    peak_s: float | None = None
    products: dict[str, float] = field(default_factory=dict)  # GFLOP/s by shape and type
    device: str = "cpu"

    @property
    def contestant(self) -> str:
        """Name the trainer with its number type: those who try both are two."""
        return f"{self.trainer} in {self.dtype}"

    @property
    def seconds(self) -> float:
        return sum(self.step_s)

    @property
    def useful_tokens_per_s(self) -> float:
        return self.useful_tokens / self.seconds

    @property
    def trained_tokens_per_s(self) -> float:
        return self.trained_tokens / self.seconds

    @property
    def roofline_share(self) -> float | None:
        return None if self.roofline_s is None else self.roofline_s / self.seconds

    @property
    def needed_share(self) -> float | None:
        return None if self.needed_s is None else self.needed_s / self.seconds

    @property
    def peak_share(self) -> float | None:
        return None if self.peak_s is None else self.peak_s / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Give everything, what follows from it included."""
        derived = (
            "seconds",
            "useful_tokens_per_s",
            "trained_tokens_per_s",
            "roofline_share",
            "needed_share",
            "peak_share",
        )
        return {one.name: getattr(self, one.name) for one in fields(self)} | {n: getattr(self, n) for n in derived}


@dataclass(frozen=True)
class TogetherRequest(_Json):
    """Train so many adapters in one process, each for one epoch of the first rows."""

    base: str
    rows: str
    targets: tuple[str, ...]
    arms: int
    examples: int
    rows_per_step: int
    began_unix_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class TrainedTogether(_Json):
    """What one process of several adapters found.

    Attributes:
        tokens: of all adapters' rows, padding not counted.
        startup_s: from the process's start to the first step, the base's loading among it.
        seconds: of all steps of all of them.
    """

    arms: int
    tokens: int
    startup_s: float
    seconds: float
    peak_memory_bytes: int
    dtype: str
    load: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class StepClock:
    """Times optimizer steps from the end of one to the end of the next, whatever lies between.

    The first counts from its own beginning. Its warming up counts too: a user waits for it as well.
    """

    def __init__(self, began_unix_s: float, finish_device: Callable[[], None]) -> None:
        self._began_unix_s = began_unix_s
        self._finish_device = finish_device  # waits until a GPU has done what it was given
        self._last_s: float | None = None
        self.startup_s = 0.0
        self.step_s: list[float] = []

    def begin_step(self) -> None:
        """Say that a step begins; all but the first say so for nothing."""
        if self._last_s is None:
            self._finish_device()
            self.startup_s = time.time() - self._began_unix_s
            self._last_s = time.perf_counter()

    def end_step(self) -> None:
        """Say that a step has ended."""
        assert self._last_s is not None, "a step ends that never began"
        self._finish_device()
        now_s = time.perf_counter()
        self.step_s.append(now_s - self._last_s)
        self._last_s = now_s
