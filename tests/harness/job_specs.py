"""The specification of a small job, for tests of what happens to jobs rather than of what they train."""

from typing import Any

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
