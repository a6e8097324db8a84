"""Where each setting is said to come from, held against what ``core.jobs.resolve`` makes of a request."""

from typing import Any

import pytest

from core.jobs.requested import HyperparameterFields, TrainingFields
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import AdapterRef, FileRef, JobSpec, LoraSpec, TrainedAdapter
from core.provenance.origins import EffectiveSetting, ExperimentPlace, settings_of

AUTO = {"batch_size", "learning_rate", "seed", "warmup_ratio", "max_length", "lora.alpha"}


def spec_of(
    requested: dict[str, Any], *, examples: int = 1000, rate: float = 1e-3, continued: TrainedAdapter | None = None
) -> JobSpec:
    fields = {name: value for name, value in requested.items() if name not in ("hyperparameters", "method")}
    return resolve(
        TrainingFields.model_validate(fields),
        HyperparameterFields.model_validate(requested.get("hyperparameters") or {}),
        TrainableBase("base", fingerprint="f" * 64, learning_rate=rate, context_tokens=512 if rate == 1e-3 else 64),
        training=FileRef(id="file-1", sha256="0" * 64, examples=examples, file_type="jsonl"),
        validation=None,
        continued=continued,
    )


def origins(
    requested: dict[str, Any], place: ExperimentPlace | None = None, **given: Any
) -> dict[str, EffectiveSetting]:
    return settings_of(spec_of(requested, **given), requested, place)


def test_what_a_bare_job_has_differs_by_file_and_base_exactly_where_it_is_auto() -> None:
    one, other = origins({}), origins({}, examples=20, rate=2e-4)
    assert {name for name in one if one[name].value != other[name].value} == AUTO - {"lora.alpha"}
    assert {name for name, setting in one.items() if setting.origin == "auto"} == AUTO
    assert {name for name, setting in one.items() if setting.origin == "you"} == set()
    assert all(one[name].why for name in AUTO)


def test_what_is_asked_for_is_yours_wherever_the_request_says_it() -> None:
    older = origins({"hyperparameters": {"n_epochs": 2}, "lora": {"rank": 8}, "prompt_loss_weight": 0.5})
    assert {name for name, setting in older.items() if setting.origin == "you"} == {
        "n_epochs",
        "lora.rank",
        "prompt_loss_weight",
    }
    assert (older["n_epochs"].value, older["lora.rank"].value, older["lora.alpha"].value) == (2, 8, 16)
    newer = {"method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}}}
    assert settings_of(spec_of({}), newer, None)["batch_size"].origin == "you"


def test_a_field_that_is_asked_for_as_auto_is_not_yours() -> None:
    assert origins({"hyperparameters": {"batch_size": None}, "max_length": None})["max_length"].origin == "auto"


def test_a_batch_that_was_cut_to_the_file_says_so() -> None:
    setting = origins({"hyperparameters": {"batch_size": 64}}, examples=20)["batch_size"]
    assert (setting.value, setting.origin) == (20, "you")
    assert "64" in (setting.why or "")


def test_of_rate_and_multiplier_one_follows_from_the_other() -> None:
    by_rate = origins({"learning_rate": 2e-3})
    assert (by_rate["learning_rate"].origin, by_rate["learning_rate_multiplier"].origin) == ("you", "auto")
    by_multiplier = origins({"hyperparameters": {"learning_rate_multiplier": 2}})
    assert (by_multiplier["learning_rate"].origin, by_multiplier["learning_rate_multiplier"].origin) == ("auto", "you")


def test_early_stopping_makes_two_defaults_rules() -> None:
    settings = origins({"early_stopping_patience": 3})
    assert {name for name, setting in settings.items() if setting.origin == "auto"} == AUTO | {
        "n_evals",
        "load_best_model_at_end",
    }


def test_an_adapter_that_is_gone_on_from_gives_its_shape() -> None:
    earlier = TrainedAdapter("base", AdapterRef(name="ft:x", adapter_sha256="a" * 64), LoraSpec(rank=4, alpha=4))
    settings = origins({}, continued=earlier)
    assert (settings["lora.rank"].value, settings["lora.rank"].origin) == (4, "auto")
    assert "ft:x" in (settings["lora.rank"].why or "")
    assert settings["lora.dropout"].origin == "default"


@pytest.mark.parametrize("factor", [1.0, 1 / 3])
def test_in_an_experiment_the_seed_and_a_tried_rate_are_its_own(factor: float) -> None:
    place = ExperimentPlace(id="exp-1", arm="w = 0", seed=3, rate_factor=factor)
    settings = origins({"seed": 3, "learning_rate": 1e-4}, place)
    assert settings["seed"].origin == "auto"
    assert settings["learning_rate"].origin == ("you" if factor == 1 else "auto")
    assert ("exp-1" in (settings["learning_rate"].why or "")) == (factor != 1)
