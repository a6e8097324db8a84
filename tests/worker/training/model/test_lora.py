from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from core.errors import BaseModelUntrainable, TargetModulesUnmatched
from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from worker.models.loading import load_base_model
from worker.training.data.batches import collate
from worker.training.data.examples import TokenizedExample
from worker.training.model.ablations import ALL
from worker.training.model.lora import LoraModel, add_beside, add_lora, is_finite
from worker.training.output.adapter_files import is_unchanged

IDS_BT = torch.tensor([[5, 9, 65, 66, 67, 200]])


def hidden_states_of(model: LoraModel) -> torch.Tensor:
    """Give the hidden states of all these ids."""
    ids_T = np.array([*IDS_BT[0].tolist(), 0], dtype=np.int32)  # the last is only a target
    example = TokenizedExample(ids_T, np.ones(len(ids_T), dtype=np.float32), np.ones(len(ids_T), bool))
    return model.hidden_states(collate([example], model.device, all_rows=True, adapter=model.adapter))


class TestTargets:
    def test_every_linear_layer_but_the_head_by_default(self, tiny_phi: Path, make_model: MakeModel) -> None:
        model = make_model(tiny_phi)
        assert model.lora.target_modules == ("dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj")
        assert len(model.parameters) == 2 * 6 * 2  # layers, modules, A and B
        assert not any("lm_head" in name or "embed" in name for name in model.parameters)

    def test_only_the_named_ones(self, tiny_llama: Path, make_model: MakeModel) -> None:
        model = make_model(tiny_llama, LoraSpec(rank=2, target_modules=("q_proj", "layers.1.mlp.up_proj")))
        layers = {name.split(".lora_")[0].removeprefix("base_model.model.model.layers.") for name in model.parameters}
        assert layers == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj"}

    @pytest.mark.parametrize("name", ["qkv_proj", "proj", "lm_head", "embed_tokens", "input_layernorm"])
    def test_a_name_that_matches_nothing_is_refused(self, tiny_phi: Path, make_model: MakeModel, name: str) -> None:
        with pytest.raises(TargetModulesUnmatched, match=name) as caught:
            make_model(tiny_phi, LoraSpec(target_modules=("q_proj", name)))
        assert "dense, fc1, fc2, k_proj, q_proj, v_proj" in str(caught.value)


class TestStart:
    def test_depends_on_the_seed_alone(self, tiny_phi: Path) -> None:
        def start(seed: int) -> dict[str, torch.Tensor]:
            torch.rand(seed + 3)  # whatever was drawn before
            return dict(add_lora(load_base_model(tiny_phi, dtype="float32"), LoraSpec(rank=4), seed).parameters)

        first, again, other = start(0), start(0), start(1)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_adds_nothing_before_training(self, tiny_phi: Path, make_model: MakeModel) -> None:
        model = make_model(tiny_phi, random_b=False)
        assert is_unchanged(model)
        base = load_base_model(tiny_phi, dtype="float32")
        with torch.no_grad():
            assert torch.equal(model.peft(input_ids=IDS_BT).logits, base.model(input_ids=IDS_BT).logits)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_adapters_are_float32_and_the_base_frozen(self, tiny_phi: Path, dtype: str) -> None:
        model = add_lora(load_base_model(tiny_phi, dtype=dtype), LoraSpec(rank=4), seed=0)  # type: ignore[arg-type]
        assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}
        frozen = [p for p in model.peft.parameters() if not p.requires_grad]
        assert {p.dtype for p in frozen} == {model.dtype}
        assert len(frozen) + len(model.parameters) == len(list(model.peft.parameters()))

    def test_the_bases_own_dropout_is_off_while_training(self, tiny_phi: Path, make_model: MakeModel) -> None:
        """tiny_phi's config asks for a residual dropout of 0.1, as Phi-2's does."""
        model = make_model(tiny_phi)
        assert model.peft.training
        with torch.no_grad():
            assert torch.equal(hidden_states_of(model), hidden_states_of(model))

    def test_lora_dropout_is_on_while_training(self, tiny_phi: Path, make_model: MakeModel) -> None:
        model = make_model(tiny_phi, LoraSpec(rank=4, dropout=0.5))
        with torch.no_grad():
            assert not torch.equal(hidden_states_of(model), hidden_states_of(model))

    def test_a_head_that_caps_its_logits_is_refused(self, tiny_phi: Path) -> None:
        base = load_base_model(tiny_phi, dtype="float32")
        forward: Callable[..., torch.Tensor] = base.model.forward

        def capped(*arguments: object, **named: object) -> object:
            output = forward(*arguments, **named)
            output.logits = 0.5 * output.logits.tanh()  # type: ignore[attr-defined]
            return output

        base.model.forward = capped
        with pytest.raises(BaseModelUntrainable, match="logits"):
            add_lora(base, LoraSpec(), seed=0)


class TestBeside:
    SPECS = (LoraSpec(rank=4), LoraSpec(rank=2, target_modules=("q_proj",)), LoraSpec(rank=3, use_dora=True))

    def test_each_starts_as_it_would_alone(self, tiny_phi: Path) -> None:
        model = add_lora(load_base_model(tiny_phi, dtype="float32"), self.SPECS[0], seed=0)
        models = [model, *(add_beside(model, spec, seed) for seed, spec in enumerate(self.SPECS[1:], start=1))]
        for seed, (spec, one) in enumerate(zip(self.SPECS, models, strict=True)):
            alone = add_lora(load_base_model(tiny_phi, dtype="float32"), spec, seed)
            assert list(one.parameters) == list(alone.parameters)
            assert all(torch.equal(one.parameters[name], start) for name, start in alone.parameters.items())
            assert one.lora == alone.lora
            assert all(parameter.requires_grad for parameter in one.parameters.values())
        assert [one.joins for one in models] == [True, True, False]

    def test_each_answers_by_itself_alone(self, tiny_phi: Path, make_model: MakeModel) -> None:
        first = make_model(tiny_phi)
        second = add_beside(first, LoraSpec(rank=3, use_dora=True), seed=1)  # PEFT's modules compute it
        with torch.no_grad():
            before = hidden_states_of(first)
            alone = add_lora(load_base_model(tiny_phi, dtype="float32"), LoraSpec(rank=3, use_dora=True), seed=1)
            assert torch.equal(hidden_states_of(second), hidden_states_of(alone))
            assert torch.equal(hidden_states_of(first), before)
            first.activate()
            theirs = first.peft(input_ids=IDS_BT).logits
            assert torch.equal(theirs, make_model(tiny_phi).peft(input_ids=IDS_BT).logits)
        assert all(parameter.requires_grad for one in (first, second) for parameter in one.parameters.values())


def test_trap_28_bfloat16_gradients_do_not_need_pefts_float32_copies(tiny_phi: Path) -> None:
    def gradients(cast_inputs: bool) -> list[torch.Tensor]:
        base = load_base_model(tiny_phi, dtype="bfloat16")
        model = add_lora(base, LoraSpec(rank=4), seed=0, techniques=ALL.without("own_lora"))
        layers = [module for module in model.peft.modules() if isinstance(module, LoraLayer)]
        assert len(layers) == 12
        for layer in layers:
            assert not layer.cast_input_dtype_enabled
            layer.cast_input_dtype_enabled = cast_inputs
        with torch.no_grad():
            for name, parameter in model.parameters.items():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        hidden_BTH = hidden_states_of(model)
        hidden_BTH.float().square().sum().backward()
        found = [parameter.grad for parameter in model.parameters.values()]
        assert all(gradient is not None for gradient in found)
        return [gradient for gradient in found if gradient is not None]

    assert all(torch.equal(with_, without) for with_, without in zip(gradients(True), gradients(False), strict=True))


def test_a_weight_that_is_no_number_is_seen(tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi)
    assert is_finite(model)
    with torch.no_grad():
        next(iter(model.parameters.values()))[0, 0] = float("nan")
    assert not is_finite(model)
