"""Which arms a request has, and what each becomes."""

from typing import Any

import pytest

from core.errors import InvalidParameter
from core.experiments.arms import AskedArm, job_of, list_arms, seeds_of
from core.experiments.requested import MAX_ARMS, ExperimentFields
from core.scoring.registry import METRICS


def arms_of(**fields: Any) -> list[AskedArm]:
    return list_arms(ExperimentFields.model_validate(fields))


def refusal(**fields: Any) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        arms_of(**fields)
    return caught.value


def test_the_question_of_labels_has_three_weights_unless_others_are_named() -> None:
    arms = arms_of(question="labels")
    assert [(arm.name, arm.fields) for arm in arms] == [
        ("w = 0", {"prompt_loss_weight": 0.0}),
        ("w = 0.1", {"prompt_loss_weight": 0.1}),
        ("w = 1", {"prompt_loss_weight": 1.0}),
    ]
    assert [arm.name for arm in arms_of(question="labels", weights=(0, 0.01, 0.5))] == ["w = 0", "w = 0.01", "w = 0.5"]


def test_arms_are_named_by_their_fields_unless_they_have_a_name() -> None:
    arms = arms_of(arms=[{}, {"lora": {"rank": 8}, "n_epochs": 2}, {"name": "long", "n_epochs": 9}])
    assert [arm.name for arm in arms] == ["as it is", "lora.rank = 8, n_epochs = 2", "long"]
    assert arms[2].fields == {"n_epochs": 9}


def test_a_grid_has_every_combination() -> None:
    arms = arms_of(grid={"lora.rank": (8, 16), "prompt_loss_weight": (0, 1)})
    assert [arm.fields for arm in arms] == [
        {"lora": {"rank": rank}, "prompt_loss_weight": weight} for rank in (8, 16) for weight in (0, 1)
    ]
    assert arms[1].name == "lora.rank = 8, prompt_loss_weight = 1"


def test_arms_that_are_drawn_are_the_same_for_one_seed_and_never_twice_the_same() -> None:
    fields = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "lora.rank": [8, 16]}
    drawn = [arm.fields for arm in arms_of(random={"n": 6, "seed": 4, "fields": fields})]
    assert drawn == [
        arm.fields for arm in arms_of(random={"n": 6, "seed": 4, "fields": dict(reversed(fields.items()))})
    ]
    assert drawn != [arm.fields for arm in arms_of(random={"n": 6, "seed": 5, "fields": fields})]
    assert all(1e-5 <= arm["learning_rate"] <= 1e-2 and arm["lora"]["rank"] in (8, 16) for arm in drawn)
    few = arms_of(random={"n": 6, "fields": {"lora.rank": [8, 16, 8]}})
    assert sorted(arm.fields["lora"]["rank"] for arm in few) == [8, 16]


def test_an_arms_fields_are_laid_over_the_job_object_by_object() -> None:
    shared = {"model": "base", "lora": {"rank": 16, "alpha": 8}, "n_epochs": 3}
    [arm] = arms_of(arms=[{"lora": {"rank": 4}, "n_epochs": None}])
    assert job_of(shared, arm) == {"model": "base", "lora": {"rank": 4, "alpha": 8}, "n_epochs": None}
    assert shared["lora"] == {"rank": 16, "alpha": 8}


@pytest.mark.parametrize("field", ["model", "training_file", "validation_file", "prompt_format", "seed", "suffix"])
def test_what_all_arms_share_is_no_arms_own_and_the_arm_is_named(field: str) -> None:
    error = refusal(arms=[{}, {"name": "other", field: "x"}])
    assert error.param == f"arms[1].{field}"
    assert error.reason.startswith("other: ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "arms"),
        ({"question": "labels", "arms": [{}]}, "arms"),
        ({"arms": [{}], "weights": (0, 1)}, "weights"),
        ({"arms": [{}], "base": False}, "arms[0]"),
        ({"arms": [{}, {}]}, "arms[1]"),
        ({"arms": [{"name": "base"}]}, "arms[0]"),
        ({"arms": [{"name": ""}]}, "arms[0].name"),
        ({"arms": [{"name": "a\nb"}]}, "arms[0].name"),
        ({"grid": {"lora.rank": tuple(range(MAX_ARMS + 1))}}, "grid"),
        ({"grid": {"lora": (None,), "lora.rank": (8,)}}, "grid.lora.rank"),
        ({"grid": {"lora.rank": (8,), "lora": (None,)}}, "grid.lora"),
        ({"random": {"n": 2, "fields": {"n_epochs": []}}}, "random.fields.n_epochs"),
        (
            {"random": {"n": 2, "fields": {"learning_rate": {"low": 0, "high": 1, "log": True}}}},
            "random.fields.learning_rate",
        ),
        ({"random": {"n": 2, "fields": {"learning_rate": {"low": 1, "high": 1}}}}, "random.fields.learning_rate"),
    ],
)
def test_what_is_no_experiment_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_one_arm_is_enough_beside_the_base_model() -> None:
    assert [arm.name for arm in arms_of(arms=[{"name": "base"}, {}], base=False)] == ["base", "as it is"]
    assert len(arms_of(arms=[{}])) == 1


def test_seeds_are_counted_from_1_or_named() -> None:
    assert seeds_of(ExperimentFields()) == (1, 2, 3)
    assert seeds_of(ExperimentFields(seeds=(7, 5))) == (7, 5)
    for wrong in (0, 21, (4, 4), ()):
        with pytest.raises(InvalidParameter, match="seeds"):
            seeds_of(ExperimentFields.model_validate({"seeds": wrong}))


def test_no_verdict_can_go_by_a_metric_that_is_unknown_or_only_describes() -> None:
    for wrong in ("bleu", "length_ratio"):
        with pytest.raises(ValueError, match="primary_metric"):
            ExperimentFields.model_validate({"primary_metric": wrong})
    with pytest.raises(ValueError, match="there are exact_match"):
        ExperimentFields.model_validate({"metrics": ["bleu"]})


def test_its_schema_names_the_metrics_that_there_are() -> None:
    described = ExperimentFields.model_json_schema()["properties"]
    assert described["metrics"]["items"]["enum"] == list(METRICS)
    assert set(METRICS) - set(described["primary_metric"]["enum"]) == {"length_ratio"}
