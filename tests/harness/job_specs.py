"""A small job's specification and estimate, for tests of what happens to jobs rather than of what they train."""

from typing import Any

from core.estimates.estimate import Basis, Estimate, EstimatedMachine, QueuePlace, Seconds
from core.jobs.spec import FileRef, JobSpec, LoraSpec


def make_job_spec(training_file: FileRef, **fields: Any) -> JobSpec:
    """Specify one epoch over the file; ``fields`` say what is to be otherwise."""
    usual: dict[str, Any] = {
        "base_model": "tiny",
        "training_file": training_file,
        "validation_file": None,
        "n_epochs": 1,
        "batch_size": 1,
        "learning_rate": 1e-3,
        "learning_rate_multiplier": 1.0,
        "lora": LoraSpec(),
        "max_length": 64,
        "seed": 0,
    }
    return JobSpec(**usual | fields)


def make_estimate(*, total_s: float = 0.0, steps: int = 1, sampled: bool = False) -> Estimate:
    """Make an estimate that knows next to nothing."""
    return Estimate(
        **dict.fromkeys(("examples", "held_out_examples", "dropped_examples", "untrained_examples"), 1),
        **dict.fromkeys(("seen_tokens", "trained_tokens", "evaluated_tokens", "read_examples"), 1),
        steps=steps,
        sampled=sampled,
        seconds=Seconds(**dict.fromkeys(Seconds.model_fields, 0.0) | {"total": total_s}),
        peak_memory_bytes=None,
        token_budget=None,
        memory=None,
        fits=None,
        machine=EstimatedMachine(device=None, memory_bytes=None, available_bytes=None, source="a test"),
        basis=Basis(kind="unknown", jobs=(), flops_per_s=None, explanation=""),
        queue=QueuePlace(place=1, seconds_ahead=None),
        problems=(),
    )
