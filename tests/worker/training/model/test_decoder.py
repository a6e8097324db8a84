"""The ways through a decoder: each gives transformers' result, and no segment looks at another."""

from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PhiConfig, PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM

from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import SUMS, render
from worker.models.loading import LoadedModel, load_base_model
from worker.training.data.batches import collate
from worker.training.data.examples import ExampleSet, TokenizedExample
from worker.training.model.ablations import ALL, Techniques
from worker.training.model.blocks import rms_norm
from worker.training.model.decoder import OwnPass, PackedPass, PaddedPass, choose_pass
from worker.training.model.lora import LoraModel, add_lora
from worker.training.model.loss import weighted_loss
from worker.training.model.rotary import rotate
from worker.training.native.kernels import TrainerKernels

CPU = torch.device("cpu")
WAYS = {OwnPass: ALL, PackedPass: ALL.without("own_blocks"), PaddedPass: ALL.without("packing")}
BASES = pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama", "tiny_qwen2"])
EVERY = [ALL, *(ALL.without(field.name) for field in fields(Techniques))]
TOKEN_BUDGETS = (100, 100_000)  # several micro-batches, and one
EVERY_ID = ["all", *(f"without {field.name}" for field in fields(Techniques))]


def _model(
    folder: Path, techniques: Techniques = ALL, dtype: Any = "float32", kernels: TrainerKernels | None = None
) -> LoraModel:
    model = add_lora(load_base_model(folder, dtype=dtype), LoraSpec(rank=4, alpha=8), 0, techniques, kernels)
    return _with_random_b(model, 0.05)


def _with_random_b(model: LoraModel, std: float) -> LoraModel:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if ".lora_B." in name:
                parameter.normal_(std=std, generator=generator)
    return model


def _example(ids: list[int]) -> TokenizedExample:
    weights_T = np.array([0.0] + [1.0] * (len(ids) - 1), dtype=np.float32)
    return TokenizedExample(np.array(ids, dtype=np.int32), weights_T, weights_T > 0)


def _gradients(model: LoraModel, examples: ExampleSet, token_budget: int) -> dict[str, Tensor]:
    total = float(examples.weights.sum(dtype="float64"))
    for members in model.pack(examples.lengths.tolist(), token_budget):
        batch = model.collate([examples[member] for member in members])
        hidden_KH = model.hidden_states(batch)
        weighted_loss(hidden_KH, model.head, batch, total, model.techniques, model.kernels)[0].backward()
    found = {name: p.grad for name, p in model.parameters.items() if p.grad is not None}
    assert set(found) == set(model.parameters)
    for parameter in model.parameters.values():
        parameter.grad = None
    return found


def _reference(model: LoraModel, examples: ExampleSet) -> dict[str, Tensor]:
    """By transformers' and PEFT's own modules in float32, one example at a time, all logits."""
    total = float(examples.weights.sum(dtype="float64"))
    for index in range(len(examples)):
        ids_T = torch.tensor(examples[index].ids_T, dtype=torch.int64)
        logits_TV = model.peft(input_ids=ids_T[None], use_cache=False).logits[0, :-1]
        nll_T = torch.nn.functional.cross_entropy(logits_TV, ids_T[1:], reduction="none")
        ((nll_T * torch.tensor(examples[index].weights_T[1:])).sum() / total).backward()
    found = {name: p.grad for name, p in model.parameters.items() if p.grad is not None}
    for parameter in model.parameters.values():
        parameter.grad = None
    return found


def _error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float]:
    """Give the relative error and one minus the cosine, over all gradients as one vector."""
    ours = torch.cat([found[name].flatten().double() for name in expected])
    theirs = torch.cat([tensor.flatten().double() for tensor in expected.values()])
    return float((ours - theirs).norm() / theirs.norm()), 1 - float(torch.cosine_similarity(ours, theirs, dim=0))


@dataclass(frozen=True)
class ExpectedGradients:
    """A tiny base, examples, and the gradients of its adapter over them."""

    base: Path
    examples: ExampleSet
    gradients: dict[str, Tensor]


@pytest.fixture(scope="module", params=["tiny_phi", "tiny_llama"])
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExpectedGradients:
    base: Path = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("examples")
    examples = render(folder, base, SUMS, validation=[], prompt_loss_weight=0.1).training
    return ExpectedGradients(base, examples, _reference(_model(base), examples))


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Give how often each kernel has been called since."""
    called: Counter[str] = Counter()
    usual = TrainerKernels._call

    def call(self: TrainerKernels, kernel: str, *arguments: Any) -> None:
        called[kernel] += 1
        usual(self, kernel, *arguments)

    monkeypatch.setattr(TrainerKernels, "_call", call)
    return called


class TestGradients:
    @pytest.mark.parametrize("techniques", EVERY, ids=EVERY_ID)
    def test_in_float32_equal_those_of_one_example_at_a_time(
        self, expected: ExpectedGradients, techniques: Techniques
    ) -> None:
        model = _model(expected.base, techniques)
        for token_budget in TOKEN_BUDGETS:
            assert _error(_gradients(model, expected.examples, token_budget), expected.gradients)[0] < 1e-6

    @pytest.mark.parametrize("techniques", EVERY, ids=EVERY_ID)
    def test_with_kernels_equal_those_of_one_example_at_a_time(
        self, expected: ExpectedGradients, kernels: TrainerKernels, techniques: Techniques
    ) -> None:
        model = _model(expected.base, techniques, kernels=kernels)
        for token_budget in TOKEN_BUDGETS:
            assert _error(_gradients(model, expected.examples, token_budget), expected.gradients)[0] < 2e-6

    def test_with_kernels_own_blocks_use_all_of_them(
        self, expected: ExpectedGradients, kernels: TrainerKernels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called = _count_calls(monkeypatch)
        model = _model(expected.base, kernels=kernels)
        assert isinstance(model.decoder_pass, OwnPass)
        called.clear()
        _gradients(model, expected.examples, 100_000)
        of_llama = {"rms_norm", "rms_norm_back", "gated_silu", "gated_silu_back"}
        others = {"product", "rotate", "attention", "attention_back", "softmax_gradient"}
        assert set(called) == others | (of_llama if "llama" in expected.base.name else set())

    def test_with_kernels_compute_norms_and_activations_again_instead_of_keeping_them(
        self, tmp_path: Path, tiny_llama: Path, kernels: TrainerKernels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called = _count_calls(monkeypatch)
        model = _model(tiny_llama, kernels=kernels)
        batch = model.collate([_example([5, 9, 65, 66, 67, 200])])
        for blocks, times in ((0, 2), (2, 2)):  # of blocks that are computed twice as a whole nothing is a third time
            model.decoder_pass.checkpointed_blocks = blocks
            called.clear()
            model.hidden_states(batch).sum().backward()
            assert called["gated_silu"] == 2 * times
            assert called["rms_norm"] == 4 * times

    def test_of_biased_queries_keys_and_values_equal_those_of_one_example_at_a_time(
        self, tmp_path: Path, tiny_qwen2: Path, kernels: TrainerKernels
    ) -> None:
        model = _model(tiny_qwen2)
        assert isinstance(model.decoder_pass, OwnPass)
        decoder: Any = model.decoder
        assert decoder.layers[0].self_attn.q_proj.bias.abs().min() > 0
        examples = render(tmp_path, tiny_qwen2, SUMS, validation=[], prompt_loss_weight=0.1).training
        expected = _reference(model, examples)
        assert _error(_gradients(model, examples, 100), expected)[0] < 1e-6
        with_kernels = _model(tiny_qwen2, kernels=kernels)
        assert _error(_gradients(with_kernels, examples, 100), expected)[0] < 2e-6

    @pytest.mark.parametrize("token_budget", [1, 100_000])
    def test_in_bfloat16_have_the_direction_of_float32(self, tmp_path: Path, tiny_phi: Path, token_budget: int) -> None:
        examples = render(tmp_path, tiny_phi, SUMS, validation=[], prompt_loss_weight=0.1).training
        expected = _reference(_wide_phi(torch.float32), examples)
        assert _error(_gradients(_wide_phi(torch.bfloat16), examples, token_budget), expected)[1] < 1e-4

    @BASES
    def test_in_bfloat16_are_nearer_to_float32_than_transformers_and_pefts(
        self, tmp_path: Path, request: pytest.FixtureRequest, base: str
    ) -> None:
        """Even for a tiny model whose weights are so large that rounding shows."""
        folder: Path = request.getfixturevalue(base)
        examples = render(tmp_path, folder, SUMS, validation=[], prompt_loss_weight=0.1).training
        exact = _model(folder)
        _round_base(exact)
        expected = _reference(exact, examples)
        theirs = replace(ALL, packing=False, own_blocks=False, own_attention=False, own_lora=False)
        ours = _error(_gradients(_model(folder, ALL, "bfloat16"), examples, 100_000), expected)
        assert ours[0] < 1.1 * _error(_gradients(_model(folder, theirs, "bfloat16"), examples, 100_000), expected)[0]


def _windowed_qwen2(window: int) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        use_sliding_window=True,
        sliding_window=window,
        max_window_layers=1,
    )
    return Qwen2ForCausalLM(config).eval().get_decoder()


def _round_base(model: LoraModel) -> None:
    """What rounding the base's weights changes is not the trainer's."""
    with torch.no_grad():
        for parameter in model.peft.parameters():
            if not parameter.requires_grad:
                parameter.copy_(parameter.bfloat16())


def _wide_phi(dtype: torch.dtype) -> LoraModel:
    """A Phi with weights of the usual size, rounded to bfloat16 in either type."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        use_cache=False,
        resid_pdrop=0.0,
    )
    causal: Any = PhiForCausalLM(config)
    causal = causal.to(torch.bfloat16).to(dtype).requires_grad_(False).eval()
    base = LoadedModel(causal, cast(Any, None), 2048, "", CPU, dtype)
    model = add_lora(base, LoraSpec(rank=16), 0)
    return _with_random_b(model, 0.02)


class TestSegments:
    first = _example([5, 9, 65, 66, 67, 200])
    second = _example([70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88])

    @BASES
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    def test_trap_16_an_example_alone_and_in_any_company_is_the_same(
        self, request: pytest.FixtureRequest, base: str, way: type
    ) -> None:
        model = _model(request.getfixturevalue(base), WAYS[way])
        assert type(model.decoder_pass) is way
        with torch.no_grad():
            alone = model.hidden_states(model.collate([self.second]))
            for company in ([self.first], [self.first, self.first], [self.second]):
                after = model.hidden_states(model.collate([*company, self.second]))[-len(alone) :]
                before = model.hidden_states(model.collate([self.second, *company]))[: len(alone)]
                assert torch.allclose(after, alone, atol=1e-5)
                assert torch.allclose(before, alone, atol=1e-5)

    @BASES
    @pytest.mark.parametrize("way", [OwnPass, PackedPass])
    def test_trap_17_what_stands_in_one_segment_does_not_change_another(
        self, request: pytest.FixtureRequest, base: str, way: type
    ) -> None:
        model = _model(request.getfixturevalue(base), WAYS[way])
        assert type(model.decoder_pass) is way
        other = _example([250, 249, 248, 247, 246, 245])
        with torch.no_grad():
            found = [model.hidden_states(model.collate([one, self.second])) for one in (self.first, other)]
        scored = len(self.first.ids_T) - 1
        assert not torch.allclose(found[0][:scored], found[1][:scored], atol=1e-2)
        assert torch.equal(found[0][scored:], found[1][scored:])

    @BASES
    def test_trap_18_no_segments_first_token_is_a_target(self, request: pytest.FixtureRequest, base: str) -> None:
        model = _model(request.getfixturevalue(base))
        batch = model.collate([self.first, self.second])
        assert len(batch.targets_K) == 5 + 18
        assert batch.targets_K.tolist() == [*self.first.ids_T[1:], *self.second.ids_T[1:]]


def test_the_unfused_gelu_can_be_had_for_a_comparison(tiny_phi: Path) -> None:
    kinds = [
        {type(module).__name__ for module in _model(tiny_phi, techniques).decoder.modules()}
        for techniques in (ALL, ALL.without("fused_gelu"))
    ]
    assert kinds[1] - kinds[0] == {"NewGELUActivation"}
    assert kinds[0] - kinds[1] == {"GELUTanh"}


class TestChoice:
    @BASES
    def test_our_own_blocks_where_we_know_the_architecture(self, request: pytest.FixtureRequest, base: str) -> None:
        assert isinstance(_model(request.getfixturevalue(base)).decoder_pass, OwnPass)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_rounding_in_thirty_blocks_is_not_taken_for_an_error(self, smollm2_folder: Path, dtype: str) -> None:
        assert isinstance(_model(smollm2_folder, ALL, dtype).decoder_pass, OwnPass)

    def test_transformers_modules_where_ours_would_compute_something_else(
        self, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = load_base_model(tiny_llama, dtype="float32")
        for layer in base.model.get_decoder().layers:
            healthy = layer.mlp.forward
            layer.mlp.forward = lambda states, healthy=healthy: 2 * healthy(states)
        chosen = choose_pass(base.model.get_decoder(), CPU, lambda: torch.autocast("cpu", enabled=False), ALL)
        assert isinstance(chosen, PackedPass)

    @pytest.mark.parametrize("window", [4, 20])  # less than what is tried has, and more
    def test_transformers_modules_where_a_known_block_has_windows_and_no_input_looks_beyond_its_own(
        self, window: int
    ) -> None:
        decoder = _windowed_qwen2(window)
        chosen = choose_pass(decoder, CPU, lambda: torch.autocast("cpu", enabled=False), ALL)
        assert isinstance(chosen, PackedPass)
        ids = [(7 * number) % 250 for number in range(60)]
        with torch.no_grad():
            found_KH = chosen(collate([_example(ids[:9]), _example(ids)], CPU))[8:]
            states_1TH = decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
        assert torch.allclose(found_KH, states_1TH[0, :-1], atol=1e-4)

    def test_padding_where_a_model_does_not_take_our_attention(self, tiny_llama: Path) -> None:
        base = load_base_model(tiny_llama, dtype="float32")
        decoder = base.model.get_decoder()
        decoder._supports_attention_backend = False
        chosen = choose_pass(decoder, CPU, lambda: torch.autocast("cpu", enabled=False), ALL.without("own_blocks"))
        assert isinstance(chosen, PaddedPass)


class TestCheckpointing:
    @BASES
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    @pytest.mark.parametrize("blocks", [1, 2])
    def test_trap_29_blocks_computed_twice_give_the_same_bits(
        self, tmp_path: Path, request: pytest.FixtureRequest, base: str, way: type, blocks: int
    ) -> None:
        folder: Path = request.getfixturevalue(base)
        examples = render(tmp_path, folder, SUMS, validation=[]).training
        model = _model(folder, WAYS[way])
        kept = _gradients(model, examples, 200)
        model.decoder_pass.checkpointed_blocks = blocks
        twice = _gradients(model, examples, 200)
        assert all(torch.equal(twice[name], gradient) for name, gradient in kept.items())


def test_noise_is_added_to_the_embeddings(tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi)
    batch = model.collate([TestSegments.first])
    noise_NH = torch.zeros(len(batch.input_ids_N), 80)
    with torch.no_grad():
        plain, same = model.hidden_states(batch), model.hidden_states(batch, noise_NH)
        noise_NH[0] = torch.randn(80)
        assert torch.equal(plain, same)
        assert not torch.allclose(plain, model.hidden_states(batch, noise_NH), atol=1e-2)


def test_rms_norm_is_transformers_with_its_gradient(tiny_llama: Path) -> None:
    norm: Any = load_base_model(tiny_llama, dtype="float32").model.get_decoder().layers[0].input_layernorm
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    states_NH = torch.randn(5, 64, requires_grad=True)
    grad_NH = torch.randn(5, 64)
    [expected] = torch.autograd.grad(norm(states_NH), states_NH, grad_NH)
    found = rms_norm(states_NH, norm.weight, norm.variance_epsilon)
    assert torch.allclose(found, norm(states_NH), atol=1e-6)
    assert torch.allclose(torch.autograd.grad(found, states_NH, grad_NH)[0], expected, atol=1e-6)


def test_rotation_keeps_lengths_and_is_undone_backwards() -> None:
    angles_NE = torch.rand(5, 3).repeat(1, 2) * 6
    states_NAD = torch.randn(5, 2, 8, requires_grad=True)
    rotated_NAD = rotate(states_NAD, angles_NE.cos(), angles_NE.sin())
    assert torch.allclose(rotated_NAD.norm(dim=2), states_NAD.norm(dim=2), atol=1e-6)
    assert torch.equal(rotated_NAD[..., 6:], states_NAD[..., 6:])
    [back] = torch.autograd.grad(rotated_NAD, states_NAD, rotated_NAD.detach())
    assert torch.allclose(back, states_NAD, atol=1e-6)
