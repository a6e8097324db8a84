from benchmarks.host.number_types import NumberTypes
from benchmarks.training.cases import choose_contestants


def test_rivals_that_can_choose_take_part_in_both_types_and_less_in_the_slower_one() -> None:
    everyone, left_out = choose_contestants(NumberTypes("float32", 0.8))
    assert everyone[0].name == "ours in float32"
    amounts = {one.name: (one.share, one.every) for one in everyone if one.trainer in ("ours", "hf_best", "trl_tuned")}
    assert amounts == {
        "ours in float32": (1.0, 1),
        "hf_best in bfloat16": (0.25, 2),
        "hf_best in float32": (1.0, 1),
        "trl_tuned in bfloat16": (0.25, 2),
        "trl_tuned in float32": (1.0, 1),
    }
    assert left_out == ()


def test_where_bfloat16_is_hopeless_nobody_computes_in_it_and_the_result_can_say_who_would_have() -> None:
    everyone, left_out = choose_contestants(NumberTypes("float32", 0.1))
    assert {one.dtype for one in everyone} == {"float32"}
    assert set(left_out) == {f"{name} in bfloat16" for name in ("hf_best", "trl_tuned", "trl_packing", "trl_default")}


def test_where_float32_is_hopeless_the_recipes_that_are_in_float32_stay() -> None:
    everyone, left_out = choose_contestants(NumberTypes("bfloat16", 4.0))
    assert [one.name for one in everyone if one.dtype == "float32"] == ["hf_fp32 in float32", "seed in float32"]
    assert set(left_out) == {f"{name} in float32" for name in ("hf_best", "trl_tuned", "trl_packing")}
