"""One layer with adapters, held to PEFT's own module. Whole models are in test_engine."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.byte_tokenizer import write_byte_tokenizer
from worker.inference.lora import Adapter, LoraLinear, LoraPair, RowPlan, gain_of

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora and rslora": {"use_rslora": True, "use_dora": True},
}
RANK, ALPHA = 4, 6


def _peft_layer(linear: nn.Linear, **kind: Any) -> nn.Module:
    """Wrap the layer by PEFT with random factors, and lengths that are not those of W + scale·B·A."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], **kind)
    layer: nn.Module = LoraModel(nn.Sequential(linear), config, "default").model[0].eval()
    for name, parameter in layer.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data *= torch.rand_like(parameter) + 0.5
        elif "lora_" in name:
            nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_gets_what_pefts_module_computes(kind: dict[str, Any], bias: bool, renderer: Renderer) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 5, bias=bias)
    base = nn.Linear(8, 5, bias=bias)
    base.load_state_dict(linear.state_dict())
    theirs: Any = _peft_layer(linear, **kind)
    a_RI, b_OR = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    scale, gain_O = theirs.scaling["default"], None
    if kind.get("use_dora"):
        length_O = theirs.lora_magnitude_vector["default"].weight
        gain_O = gain_of(length_O, base.weight, a_RI, b_OR, scale)
    adapter = Adapter("a", {"layer": LoraPair(a_RI, b_OR, scale, gain_O)}, renderer, 0)
    plan = RowPlan()
    plan.set([adapter, None, adapter], torch.device("cpu"))
    x_BTI = torch.randn(3, 4, 8)
    with torch.inference_mode():
        ours_BTO = LoraLinear("layer", base, plan)(x_BTI)
        assert torch.allclose(ours_BTO[[0, 2]], theirs(x_BTI[[0, 2]]), atol=1e-5)
        assert torch.equal(ours_BTO[1], base(x_BTI)[1])


@pytest.mark.parametrize("rows", [[0, 1], [0, 2]], ids=["together", "apart"])
def test_a_gain_stretches_a_bfloat16_models_outputs_but_not_their_bias(rows: list[int], renderer: Renderer) -> None:
    base = nn.Linear(8, 5, dtype=torch.bfloat16)
    zeros = (torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(5, 2, dtype=torch.bfloat16))
    adapter = Adapter("a", {"layer": LoraPair(*zeros, 1.0, torch.full((5,), 1.02))}, renderer, 0)
    plan = RowPlan()
    plan.set([adapter if row in rows else None for row in range(3)], torch.device("cpu"))
    x_BTI = torch.randn(3, 4, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        ours_BTO, plain_BTO = LoraLinear("layer", base, plan)(x_BTI), base(x_BTI)
    expected_BTO = base.bias + (plain_BTO - base.bias) * 1.02
    assert ours_BTO.dtype == torch.bfloat16
    assert torch.allclose(ours_BTO[rows].float(), expected_BTO[rows].float(), atol=2e-2)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return Renderer(TextTokenizer.from_folder(folder))
