"""An adapter's files: PEFT reads them, equal adapters have equal ones, and what is read back is what was written."""

from pathlib import Path

import peft
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.serving.adapter_format import CONFIG, WEIGHTS
from tests.worker.training.conftest import MakeModel
from tests.worker.training.model.test_lora import IDS_BT, hidden_states_of
from worker.training.output.adapter_files import restore_adapter, save_adapter


def test_peft_loads_them_and_computes_the_same(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi)
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_phi, dtype=torch.float32), tmp_path
    ).eval()
    with torch.no_grad():
        ours = model.head(hidden_states_of(model))
        assert torch.allclose(theirs(input_ids=IDS_BT).logits[0], ours, atol=1e-5)


def test_names_and_types_are_pefts(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    save_adapter(make_model(tiny_phi), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["base_model.model.model.layers.0.mlp.fc1.lora_A.weight"].shape == (4, 80)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_equal_adapters_give_equal_bytes(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_adapter(make_model(tiny_phi), tmp_path / name)
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_say_nothing_of_this_machine(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    save_adapter(make_model(tiny_phi), tmp_path)
    assert str(tiny_phi.parent) not in (tmp_path / CONFIG).read_text()


def test_restoring_gives_the_same_bits(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    model, fresh = make_model(tiny_phi), make_model(tiny_phi, random_b=False)
    save_adapter(model, tmp_path)
    restore_adapter(fresh, tmp_path)
    assert all(torch.equal(fresh.parameters[name], tensor) for name, tensor in model.parameters.items())
    assert all(parameter.requires_grad for parameter in fresh.parameters.values())
