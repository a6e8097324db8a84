"""What is compared: the models and rows, the trainers, and how many of the rows each trains on. No torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.host.number_types import BOTH, NumberTypes
from benchmarks.training.measurement import MeasurementRequest
from benchmarks.training.rows import Rows
from core.base_models.registry import DType

PHI_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
LLAMA_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEED: Final = 0
ROWS_PER_STEP: Final = 8
SLOWER_SHARE, SLOWER_EVERY = 0.25, 2  # of a rival in the type that the machine is slower in


@dataclass(frozen=True)
class TrainerContestant:
    """A trainer, and how much of it is measured.

    Attributes:
        share: of the rows; those who train on all are compared by held-out loss too.
        every: it takes part in one of so many rounds; those that no ratio is likely to be named for need fewer.
        dtype: "auto" takes part in each type that is worth measuring; a recipe that has one of its own, in that.
    """

    trainer: str
    description: str
    share: float = 1.0
    every: int = 1
    rows_per_step: int = ROWS_PER_STEP
    token_budget: int | None = None
    rows_at_once: int | None = None
    dtype: DType = "auto"

    @property
    def name(self) -> str:
        return f"{self.trainer} in {self.dtype}"

    @property
    def trains_all(self) -> bool:
        return self.share == 1.0

    def examples(self, available: int) -> int:
        """Give how many of the rows it trains on, in whole steps; the smallest share is one row."""
        return max(1, round(self.share * available / self.rows_per_step)) * self.rows_per_step


OURS: Final = TrainerContestant("ours", "ours")
RIVALS: Final = (
    TrainerContestant("hf_best", "HF Trainer: masked, dynamic padding, group_by_length"),
    TrainerContestant("trl_tuned", "TRL SFTTrainer: no checkpointing, group_by_length"),
    TrainerContestant("trl_packing", "TRL SFTTrainer: the same, packing=bfd to 1280", share=0.25, every=2),
    TrainerContestant("trl_default", "TRL SFTTrainer: defaults, bf16 over fp32 weights", share=0.25, dtype="bfloat16"),
    TrainerContestant("hf_fp32", "HF Trainer: masked, dynamic padding", share=0.25, every=2, dtype="float32"),
    TrainerContestant("seed", "HF Trainer: padded to 2048, labels copied", share=0.0, rows_per_step=1, dtype="float32"),
)


def choose_contestants(types: NumberTypes) -> tuple[tuple[TrainerContestant, ...], tuple[str, ...]]:
    """List who takes part on a machine, ours first, and the names of those who are left out.

    A hopeless type is left out, but not of a recipe in float32: that is slow, and never emulated.
    """
    chosen, left_out = [replace(OURS, dtype=types.fastest)], []
    for rival in RIVALS:
        for dtype in BOTH if rival.dtype == "auto" else (rival.dtype,):
            one = replace(rival, dtype=dtype)
            if dtype == types.hopeless and rival.dtype != "float32":
                left_out.append(one.name)
            elif rival.dtype == "auto" and dtype != types.fastest:
                chosen.append(replace(one, share=min(one.share, SLOWER_SHARE), every=SLOWER_EVERY))
            else:
                chosen.append(one)
    return tuple(chosen), tuple(left_out)


@dataclass(frozen=True)
class BenchmarkCase:
    """One model and its rows, each in a file of its own."""

    name: str
    base: Path
    rows_file: Path
    rows: Rows
    targets: tuple[str, ...]
    learning_rate: float

    def request(
        self, contestant: TrainerContestant, *, is_scored: bool = False, without: tuple[str, ...] = ()
    ) -> MeasurementRequest:
        """Ask for one measurement."""
        return MeasurementRequest(
            trainer=contestant.trainer,
            base=str(self.base),
            rows=str(self.rows_file),
            targets=self.targets,
            examples=contestant.examples(len(self.rows.training)),
            rows_per_step=contestant.rows_per_step,
            learning_rate=self.learning_rate,
            seed=SEED,
            is_scored=is_scored,
            without=without,
            token_budget=contestant.token_budget,
            rows_at_once=contestant.rows_at_once,
            dtype=contestant.dtype,
        )
