"""What is compared: the models and rows, the trainers, and how many of the rows each trains on. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.training.measurement import MeasurementRequest
from benchmarks.training.rows import Rows

PHI_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
LLAMA_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEED: Final = 0
ROWS_PER_STEP: Final = 8


@dataclass(frozen=True)
class TrainerContestant:
    """A trainer, and how much of it is measured.

    Attributes:
        share: of the rows; those who train on all are compared by held-out loss too.
        every: it takes part in one of so many rounds; those that no ratio is named for need fewer.
    """

    trainer: str
    description: str
    share: float = 1.0
    every: int = 1
    rows_per_step: int = ROWS_PER_STEP
    token_budget: int | None = None
    rows_at_once: int | None = None

    @property
    def trains_all(self) -> bool:
        return self.share == 1.0

    def examples(self, available: int) -> int:
        """Give how many of the rows it trains on, in whole steps; the smallest share is one row."""
        return max(1, round(self.share * available / self.rows_per_step)) * self.rows_per_step


OURS: Final = TrainerContestant("ours", "ours")
CONTESTANTS: Final = (
    OURS,
    TrainerContestant("hf_best", "HF Trainer: bf16 base and autocast, masked, dynamic padding, group_by_length"),
    TrainerContestant("trl_tuned", "TRL SFTTrainer: bf16 weights, no checkpointing, group_by_length"),
    TrainerContestant("trl_packing", "TRL SFTTrainer: the same, packing=bfd to 1280", share=0.25, every=2),
    TrainerContestant("trl_default", "TRL SFTTrainer: defaults", share=0.25),
    TrainerContestant("hf_fp32", "HF Trainer: fp32, masked, dynamic padding", share=0.25, every=2),
    TrainerContestant("seed", "HF Trainer: fp32, padded to 2048, labels copied", share=0.0, rows_per_step=1),
)


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
        )
