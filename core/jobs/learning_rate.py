"""How the learning rate moves over a run: its warm-up and its decay, as shares of the peak rate.

Pure arithmetic on step numbers. Which peak a job has is ``core.jobs.resolve``'s; the trainer applies it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

# The names of transformers' TrainingArguments.lr_scheduler_type; all three warm up here.
LrSchedulerType = Literal["linear", "cosine", "constant"]

WARMUP_SHARE: Final = 0.03  # QLoRA's warm-up ratio (2305.14314)
MIN_WARMUP_STEPS: Final = 5
MAX_WARMUP_SHARE: Final = 0.1  # so that a run of a few steps is not all warm-up


def usual_warmup_steps(total_steps: int) -> int:
    """Give 3 % of the steps, at least 5 but at most a tenth: 0 of 9, 2 of 20, 5 of 100, 30 of 1000."""
    return min(max(MIN_WARMUP_STEPS, math.ceil(WARMUP_SHARE * total_steps)), int(MAX_WARMUP_SHARE * total_steps))


@dataclass(frozen=True)
class Schedule:
    """The learning rate's course over a run. ``warmup_ratio`` None means `usual_warmup_steps`."""

    total_steps: int
    kind: LrSchedulerType = "linear"
    warmup_ratio: float | None = None

    @cached_property
    def warmup_steps(self) -> int:
        """How many steps come before the first one at the peak; at least the last step is none of them."""
        if self.warmup_ratio is None:
            return usual_warmup_steps(self.total_steps)
        return min(round(self.warmup_ratio * self.total_steps), max(0, self.total_steps - 1))

    def factor(self, step: int) -> float:
        """Give the share of the peak rate for the step after ``step`` steps: up in a line, then as ``kind`` says.

        No step has rate 0. Linear over 100 steps: the first has 1/6, step 5 has 1, the last 1/95.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        decaying = self.total_steps - self.warmup_steps
        match self.kind:
            case "linear":
                return (self.total_steps - step) / decaying
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * (step - self.warmup_steps) / decaying))
            case "constant":
                return 1.0
