"""Where a request's hyperparameters stand, and that each field of a job is explained."""

from pathlib import Path
from typing import Any

import pytest

from app.fine_tuning.schemas import JobCreate
from app.fine_tuning.service import hyperparameters_of
from core.errors import InvalidParameter
from core.jobs.requested import HyperparameterFields, LoraFields


def job(**fields: Any) -> JobCreate:
    return JobCreate.model_validate({"model": "base", "training_file": "file-1"} | fields)


def test_both_places_of_hyperparameters_mean_the_same() -> None:
    older = {"hyperparameters": {"n_epochs": 5}}
    newer = {"method": {"type": "supervised", "supervised": older}}
    assert hyperparameters_of(job(**older)) == hyperparameters_of(job(**newer))
    assert hyperparameters_of(job(**older)).n_epochs == 5
    assert hyperparameters_of(job()).n_epochs is None
    with pytest.raises(InvalidParameter, match="once"):
        hyperparameters_of(job(**older, **newer))


def test_the_page_names_every_field_that_decides_how_a_job_trains() -> None:
    page = (Path(__file__).parents[3] / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    others = {"model", "training_file", "validation_file", "suffix", "hyperparameters", "method", "metadata"}
    fields = set(JobCreate.model_fields) - others - {"integrations", "lora"}
    fields |= {f"hyperparameters.{name}" for name in HyperparameterFields.model_fields}
    fields |= {f"lora.{name}" for name in LoraFields.model_fields}
    assert {field for field in fields if f"`{field}`" not in page} == set()
