"""A report on a step, for tests of those who read reports."""

from typing import Any

from worker.trainer_process.messages import StepDone, StepSeconds

_FIELDS: dict[str, Any] = {
    "step": 1,
    "total_steps": 2,
    "epoch": 0.5,
    "loss": 1.5,
    "completion_loss": 1.25,
    "prompt_loss": None,
    "token_accuracy": 0.5,
    "learning_rate": 1e-3,
    "grad_norm": 2.0,
    "trained_tokens": 3,
    "seen_tokens": 4,
    "padding_tokens": 1,
    "tokens_per_s": 5.0,
    "mfu": 0.5,
    "seconds": StepSeconds(total=1.0, data=0.1, forward=0.3, backward=0.5, optimizer=0.1),
    "eta_s": 6.0,
    "memory_bytes": 7,
}


def step_done(**changes: Any) -> StepDone:
    """Give the same report every time, but for what a test is about."""
    return StepDone.model_validate(_FIELDS | changes)
