"""The specification of a small evaluation, for tests of what happens to evaluations rather than of what they score."""

from typing import Any

from core.evaluations.spec import EvaluationSpec, JudgedModel
from core.jobs.spec import FileRef
from core.serving.generation import SamplingParams


def make_evaluation_spec(file: FileRef, **fields: Any) -> EvaluationSpec:
    """Specify exact match of the base model on the first two rows; ``fields`` say what is to be otherwise."""
    usual: dict[str, Any] = {
        "base_model": "tiny",
        "base_model_fingerprint": "0" * 64,
        "context_tokens": 256,
        "max_length": 256,
        "file": file,
        "job": None,
        "lines": (1, 2),
        "too_long": 0,
        "models": (JudgedModel(name="tiny"),),
        "metrics": ("exact_match",),
        "normalization": "strip",
        "labels": None,
        "sampling": SamplingParams(max_tokens=8),
        "gates": (),
    }
    return EvaluationSpec(**usual | fields)
