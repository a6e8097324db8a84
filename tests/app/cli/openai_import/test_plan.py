"""What a job of OpenAI's is here, and that every difference is said."""

from typing import Any

import pytest

from app.cli.openai_import.plan import JobPlan, plan_job
from core.errors import StartRefused
from tests.harness.servers.fake_openai import JOB


def plan(**fields: Any) -> JobPlan:
    return plan_job(JOB | {"method": None} | fields, "tiny")


def test_a_request_has_what_means_the_same_here() -> None:
    found = plan_job(JOB, "tiny")
    assert found.request == {
        "model": "tiny",
        "hyperparameters": {"n_epochs": 4, "batch_size": 1},
        "seed": 683058546,
        "suffix": "desk",
        "metadata": {"openai_job": "ftjob-theirs"},
    }
    assert (found.training_file, found.validation_file) == ("file-train", None)


def test_differences_are_told_by_their_fields() -> None:
    told = dict(each.split(": ", 1) for each in plan_job(JOB, "tiny").differences)
    assert list(told) == ["model", "validation_file", "seed", "batch_size", "learning_rate_multiplier"]
    assert "in the place of gpt-4o-mini-2024-07-18" in told["model"]
    assert "in the place of 1.8" in told["learning_rate_multiplier"]
    assert "validation_file" not in dict(d.split(": ", 1) for d in plan(validation_file="file-valid").differences)


def test_auto_stays_auto_and_what_is_too_much_is_cut() -> None:
    found = plan(hyperparameters={"n_epochs": "auto", "batch_size": 1000, "compute_multiplier": 2})
    assert found.request["hyperparameters"] == {"n_epochs": "auto", "batch_size": 256}
    told = "\n".join(found.differences)
    assert "n_epochs: auto; OpenAI's rule" in told
    assert "batch_size: 256 in the place of 1000" in told
    assert "compute_multiplier: 2 has no counterpart here" in told
    assert plan(hyperparameters=None).request["hyperparameters"] == {"n_epochs": "auto", "batch_size": "auto"}


def test_the_suffix_is_read_from_the_models_name_where_nothing_else_says_it() -> None:
    assert plan(user_provided_suffix=None).request["suffix"] == "desk"
    assert "suffix" not in plan(user_provided_suffix=None, fine_tuned_model="ft:gpt:org::9abc").request
    spaced = plan(user_provided_suffix="my desk")
    assert "suffix" not in spaced.request
    assert any("'my desk' can be no part" in each for each in spaced.differences)


def test_metadata_is_kept_and_integrations_are_told_of() -> None:
    assert plan(metadata={"a": "b"}).request["metadata"] == {"a": "b", "openai_job": "ftjob-theirs"}
    full = {str(n): "x" for n in range(16)}
    assert plan(metadata=full).request["metadata"] == full
    assert any(each.startswith("metadata") for each in plan(metadata=full).differences)
    assert any(each.startswith("integrations") for each in plan(integrations=[{"type": "wandb"}]).differences)


@pytest.mark.parametrize("kind", ["dpo", "reinforcement"])
def test_other_methods_are_refused_by_name(kind: str) -> None:
    with pytest.raises(StartRefused, match=rf"learnt by {kind} \(method.type\)"):
        plan(method={"type": kind})


def test_what_is_no_job_is_refused() -> None:
    with pytest.raises(StartRefused, match="no fine-tuning job"):
        plan(training_file=None)
