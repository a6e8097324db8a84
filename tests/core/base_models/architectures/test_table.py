"""The descriptors against the modules that transformers makes for them, and which configs they speak of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.llama import LLAMA
from core.base_models.architectures.phi import PHI
from core.base_models.architectures.qwen2 import QWEN2
from core.base_models.architectures.table import ARCHITECTURES, find_architecture, find_input, is_gate
from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi, write_tiny_qwen2

WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": write_tiny_llama,
    "phi": write_tiny_phi,
    "qwen2": write_tiny_qwen2,
}


@pytest.fixture(params=ARCHITECTURES, ids=lambda known: known.model_type)
def known(request: pytest.FixtureRequest) -> Architecture:
    architecture: Architecture = request.param
    return architecture


def test_names_each_module_that_holds_weights_and_nothing_else(known: Architecture, tmp_path: Path) -> None:
    decoder: Any = AutoModelForCausalLM.from_pretrained(WRITERS[known.model_type](tmp_path)).get_decoder()
    block: nn.Module = decoder.layers[0]
    norms = {known.attention_norm} | (set() if known.mlp_norm is None else {known.mlp_norm})
    linear = {known.query, known.key, known.value, known.attention_out, *known.mlp_in, known.mlp_out}
    assert {name for name, module in block.named_modules() if isinstance(module, nn.Linear)} == linear
    assert {name.rpartition(".")[0] for name, _ in block.named_parameters()} == norms | linear
    for norm in (*(block.get_submodule(name) for name in norms), decoder.get_submodule(known.final_norm)):
        assert isinstance(norm, nn.LayerNorm) == (known.norm == "layer")
    assert (known.activation_module is None) == known.is_gated
    if known.activation_module is not None:
        assert type(block.get_submodule(known.activation_module)) is type(ACT2FN[decoder.config.hidden_act])
    assert find_architecture(decoder.config.to_dict()) is known


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "llama"}, LLAMA),
        ({"model_type": "llama", "hidden_act": "silu"}, LLAMA),
        ({"model_type": "llama", "hidden_act": "relu"}, None),
        ({"model_type": "phi", "hidden_act": "gelu_new", "qk_layernorm": False}, PHI),
        ({"model_type": "phi", "hidden_act": "gelu_new", "qk_layernorm": True}, None),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096}, QWEN2),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4096}, None),
        ({"model_type": "mistral", "hidden_act": "silu"}, None),
        ({}, None),
    ],
)
def test_a_config_that_means_another_block_has_no_descriptor(
    config: dict[str, Any], found: Architecture | None
) -> None:
    assert find_architecture(config) is found


def test_layers_are_known_by_their_own_name_in_any_architecture() -> None:
    inputs = {"model.layers.3.self_attn.k_proj": "attention", "dense": "attention_output", "fc2": "mlp_output"}
    assert {name: find_input(name) for name in inputs} == inputs
    # of architectures that have no descriptor
    assert [find_input(name) for name in ("qkv_proj", "out_proj", "gate_up_proj", "c_attn")] == [
        "attention",
        "attention_output",
        "mlp",
        None,
    ]
    assert [is_gate(name) for name in ("mlp.gate_proj", "gate_up_proj", "up_proj", "fc1")] == [True, True, False, False]
