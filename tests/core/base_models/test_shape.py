"""Shapes read from real safetensors headers, which tests write by hand."""

from pathlib import Path

import pytest

from core.base_models.shape import read_shape, resolve_targets
from core.errors import BaseModelInvalid, TargetModulesUnmatched
from core.jobs.spec import LoraSpec
from tests.harness.models.tiny_shapes import TINY_LLAMA, TINY_PHI, write_shapes


def test_a_llama_is_gated_and_norms_twice_a_block(tmp_path: Path) -> None:
    write_shapes(tmp_path, TINY_LLAMA)
    shape = read_shape(tmp_path)
    assert (shape.blocks, shape.hidden_width, shape.vocab_rows, shape.norms) == (1, 16, 320, 2)
    assert (shape.is_gated, shape.has_rms_norm, shape.rotates_partly) == (True, True, False)
    assert shape.linear_parameters == 16 * (16 + 8 + 8 + 16) + 3 * 32 * 16
    assert shape.parameters == shape.linear_parameters + 320 * 16 + 3 * 16


def test_a_phi_reads_one_norm_and_keeps_the_head_out_of_its_layers(tmp_path: Path) -> None:
    write_shapes(tmp_path, TINY_PHI, {"model_type": "phi", "partial_rotary_factor": 0.4})
    shape = read_shape(tmp_path)
    assert (shape.norms, shape.is_gated, shape.has_rms_norm, shape.rotates_partly) == (1, False, False, True)
    assert "lm_head" not in {layer.name for layer in shape.linear_layers}


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (None, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("q_proj",), {"q_proj"}),
        (("self_attn.q_proj", "mlp.up_proj"), {"q_proj", "up_proj"}),
    ],
)
def test_target_modules_name_layers_by_their_end(
    tmp_path: Path, targets: tuple[str, ...] | None, found: set[str]
) -> None:
    write_shapes(tmp_path, TINY_LLAMA)
    adapted = read_shape(tmp_path).adapted(LoraSpec(target_modules=targets))
    assert {layer.name.rpartition(".")[2] for layer in adapted} == found


def test_a_part_of_a_name_is_no_match() -> None:
    with pytest.raises(TargetModulesUnmatched, match="has k_proj, q_proj"):
        resolve_targets(["a.q_proj", "a.k_proj"], ("proj",))


@pytest.mark.parametrize(
    ("renamed", "named"),
    [("self_attn.q_proj", "c_attn"), ("embed_tokens", "words"), ("layers.0", "h.0")],
)
def test_an_architecture_that_is_not_known_is_named(tmp_path: Path, renamed: str, named: str) -> None:
    shapes = {name.replace(renamed, named): shape for name, shape in TINY_LLAMA.items()}
    write_shapes(tmp_path, shapes, {"model_type": "strange"})
    with pytest.raises(BaseModelInvalid, match="'strange'"):
        read_shape(tmp_path)
