"""Ranks and scales by a config's patterns: what PEFT makes of them, or a refusal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from core.errors import AdapterInvalid
from core.serving.peft_config import LayerPattern, parse_config, resolve_layers

DIGEST = "d" * 64
LAYERS = [f"model.layers.{number}.{name}" for number in (0, 1, 10) for name in ("self_attn.q_proj", "mlp.fc1")]


def config_of(**changes: Any) -> bytes:
    says = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "fc1"], "bias": "none"}
    return json.dumps(says | changes).encode()


def resolve(**changes: Any) -> dict[str, tuple[int, float]]:
    return resolve_layers(DIGEST, parse_config(DIGEST, config_of(**changes)), LAYERS)


def refusal(**changes: Any) -> str:
    with pytest.raises(AdapterInvalid) as caught:
        resolve(**changes)
    return str(caught.value.args[1])


# Atoms that collide: dots stand for any character, and names begin and end with one another.
_names = st.lists(st.sampled_from(["a", "ab", "b", "q-a", "1"]), min_size=1, max_size=4).map(".".join)
_keys = st.builds(
    lambda lead, atoms: lead + "".join(atoms),
    st.sampled_from(["", "^", r".*\."]),
    st.lists(st.sampled_from(["a", "b", ".", r"\.", "q", "-", r"\-", "1"]), min_size=1, max_size=6),
)


@given(keys=st.lists(_keys, min_size=1, max_size=4, unique=True), name=_names)
def test_the_first_pattern_that_matches_is_the_one_that_peft_takes(keys: list[str], name: str) -> None:
    first = next((key for key in keys if LayerPattern(key).matches(name)), name)
    assert first == get_pattern_key(keys, name)


def test_rank_and_alpha_have_patterns_of_their_own() -> None:
    found = resolve(rank_pattern={"layers.1.mlp.fc1": 16, "fc1": 2}, alpha_pattern={"q_proj": 1.5})
    assert found["model.layers.1.mlp.fc1"] == (16, 0.5)
    assert found["model.layers.10.mlp.fc1"] == (2, 4.0)
    assert found["model.layers.0.self_attn.q_proj"] == (4, 1.5 / 4)


def test_rslora_takes_the_root_of_each_layers_own_rank() -> None:
    found = resolve(use_rslora=True, rank_pattern={"fc1": 16})
    assert found["model.layers.0.mlp.fc1"] == (16, 2.0)
    assert found["model.layers.0.self_attn.q_proj"] == (4, 4.0)


@pytest.mark.parametrize(
    "key",
    ["(a+)+$", "q_proj|fc1", "layers.*fc1", "fc[12]", r"\d", "fc1$", "", "(?i)FC1", "fc1\n", ".*fc1", "^^fc1", "fc1*"],
)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_another_expression_is_refused_by_name(field: str, key: str) -> None:
    assert field in refusal(**{field: {key: 8}})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj"),
        ({"rank_pattern": {"q_proj": 257}}, "rank_pattern.q_proj"),
        ({"rank_pattern": {"q_proj": 8.0}}, "rank_pattern.q_proj"),
        ({"rank_pattern": {"q_proj": True}}, "rank_pattern.q_proj"),
        ({"rank_pattern": {"o_proj": 8}}, "rank_pattern: 'o_proj' matches none of the adapter's layers"),
        ({"rank_pattern": {"proj": 8}}, "'proj' matches none"),
        ({"rank_pattern": {"q" * 257: 8}}, "rank_pattern"),
        ({"rank_pattern": {f"layer{number}": 8 for number in range(1025)}}, "rank_pattern"),
        ({"rank_pattern": [8]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern.q_proj"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern.q_proj"),
        ({"alpha_pattern": {"q_proj": 2**17}}, "alpha_pattern.q_proj"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern.q_proj"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"init_lora_weights": []}, "init_lora_weights"),
    ],
)
def test_a_value_that_is_out_of_bounds_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(**changes)


@pytest.mark.parametrize("content", [b'{"r":1,"r":2}', b'{"r":1e999}', b'{"r":-Infinity}', "{}".encode("utf-16")])
def test_json_that_says_more_than_one_thing_is_refused(content: bytes) -> None:
    with pytest.raises(AdapterInvalid, match="is not JSON"):
        parse_config(DIGEST, content)


def test_a_refusal_quotes_what_it_was_given_at_no_length() -> None:
    assert len(refusal(**{"\ud800" + "x" * 60_000: 1})) < 400
