"""One step of any rows: every row gets what transformers and PEFT compute for it alone, for each architecture."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.base_models.registry import DType
from core.errors import BaseModelInvalid
from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from tests.harness.models.served_models import run_references, serve
from tests.harness.models.tiny_models import save_as_imported
from worker.inference.lora.adapter import Adapter, LoraPair
from worker.inference.model.contract import StepRow
from worker.inference.model.native_ops import NativeOps
from worker.inference.model.passes.blocks import OwnModel
from worker.inference.model.passes.transformers_pass import TransformersPass
from worker.inference.model.projections.projection import can_quantize
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import StepTimer
from worker.inference.native.build import load
from worker.models.serving import EngineModel

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
TOLERANCE = 2e-4  # of logits whose spread is about 1


def phi() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    return PhiForCausalLM(PhiConfig(**SIZES, rope_parameters=rope, hidden_act="gelu_pytorch_tanh"))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True))


def phi_with_normed_queries() -> PreTrainedModel:
    return PhiForCausalLM(PhiConfig(**SIZES, hidden_act="gelu_pytorch_tanh", qk_layernorm=True))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None))


def mistral_with_a_window() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, head_dim=12, sliding_window=5))


def qwen2() -> PreTrainedModel:
    return _with_biases(Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)))


def qwen2_with_windows() -> PreTrainedModel:
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    return _with_biases(Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2, **window)))


def _with_biases(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model's biases values: transformers starts them at zero."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            nn.init.normal_(parameter, std=0.5)
    return model


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16))


def gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=16))


def gemma2_with_windows_and_caps() -> PreTrainedModel:
    return Gemma2ForCausalLM(
        Gemma2Config(
            **SIZES,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=4,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        )
    )


OWN_BLOCKS = [phi, llama, qwen2]
ARCHITECTURES = [*OWN_BLOCKS, mistral_with_a_window, qwen2_with_windows, qwen3, gemma, gemma2_with_windows_and_caps]


def serve_made(model: PreTrainedModel, dtype: DType) -> EngineModel:
    """Save a model as an import would, and open it for an engine, which has read nothing of it yet."""
    folder = Path(tempfile.mkdtemp(dir=run_references()))
    return serve(save_as_imported(model, folder, "made", context_tokens=128), dtype=dtype)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class RunnerHarness:
    """A model that the runner has, the same model in transformers' hands, and adapters for both."""

    def __init__(self, make: object, **settings: object) -> None:
        assert callable(make)
        torch.manual_seed(0)
        self.plain: PreTrainedModel = make().eval()
        chosen = Settings(home=home_with_kernels(), engine_lora_columns=64, **settings)  # type: ignore[arg-type]
        self.runner = build_runner(serve_made(self.plain, "float32"), chosen)
        self._peft: dict[str, nn.Module] = {}

    def adapter(self, number: int, rank: int, *, targets: Sequence[str] | None = None) -> Adapter:
        """Make a random adapter, and what PEFT makes of it."""
        torch.manual_seed(0)
        fresh = type(self.plain)(self.plain.config).eval()
        fresh.load_state_dict(self.plain.state_dict())
        head = fresh.get_output_embeddings() if self.plain.config.tie_word_embeddings else None
        linear = [n for n, module in fresh.named_modules() if isinstance(module, nn.Linear) and module is not head]
        chosen = [name for name in linear if targets is None or name.split(".")[-1] in targets]
        peft = get_peft_model(fresh, LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=chosen))
        generator = torch.Generator().manual_seed(number)
        pairs = {}
        adapted: nn.Module = peft.get_base_model()
        for name, module in adapted.named_modules():
            if hasattr(module, "lora_A"):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                a.data = torch.randn(a.shape, generator=generator) * 0.2
                b.data = torch.randn(b.shape, generator=generator) * 0.2
                pairs[name] = LoraPair(a.data.clone(), (b.data * 3).T.contiguous())
        adapter = Adapter(f"digest-{number}", pairs, None, 0)  # type: ignore[arg-type] # nothing is rendered here
        self._peft[adapter.digest] = peft.eval()
        assert self.runner.bank.reserve(adapter)
        assert not self.runner.bank.copy_some(2**40)
        return adapter

    def expected(self, ids: Sequence[int], adapter: Adapter | None) -> Tensor:
        """Give the logits (T, V) that follow each token, of one text alone."""
        model = self.plain if adapter is None else self._peft[adapter.digest]
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits[:, : self.vocab_size]

    @property
    def vocab_size(self) -> int:
        return self.runner._vocab_size


def make_texts(count: int, rng: random.Random) -> list[list[int]]:
    return [[rng.randrange(250) for _ in range(rng.randint(2, 40))] for _ in range(count)]


@pytest.mark.parametrize(
    ("make", "native"), [*((make, False) for make in ARCHITECTURES), *((make, True) for make in OWN_BLOCKS)]
)
def test_each_row_of_any_mix_has_its_own_adapters_logits(make: object, native: bool) -> None:
    if native and load(Settings(home=home_with_kernels()).kernels_folder) is None:
        pytest.skip("no C++ compiler is at hand")
    harness = RunnerHarness(make, engine_native=native)
    assert native == isinstance(getattr(harness.runner._way, "_ops", None), NativeOps)
    adapters = [
        None,
        harness.adapter(1, 8),
        harness.adapter(2, 3),
        None,
        harness.adapter(3, 16, targets=["q_proj", "v_proj"]),
    ]
    rng = random.Random(7)
    texts = make_texts(5, rng)
    slots = [harness.runner.kv.allocate(len(text)) for text in texts]
    done = [0] * len(texts)
    while any(done[row] < len(text) for row, text in enumerate(texts)):
        # any part of the rows, each by one token, a few as with draft tokens, or a prefill chunk
        open_rows = [row for row, text in enumerate(texts) if done[row] < len(text)]
        chosen = rng.sample(open_rows, rng.randint(1, len(open_rows)))
        fed = {row: min(rng.choice([1, 1, 1, 4, 12]), len(texts[row]) - done[row]) for row in chosen}
        wanted = {row: rng.choice([0, 1, fed[row]]) for row in chosen}
        rows = [StepRow(slots[r], texts[r][done[r] : done[r] + fed[r]], adapters[r], wanted[r]) for r in chosen]  # type: ignore[arg-type]
        found_KV = harness.runner.forward(rows)
        begin = 0
        for row in chosen:
            done[row] += fed[row]
            right = harness.expected(texts[row][: done[row]], adapters[row])[done[row] - wanted[row] :]
            torch.testing.assert_close(found_KV[begin : begin + wanted[row]], right, atol=TOLERANCE, rtol=0)
            begin += wanted[row]
        assert begin == len(found_KV)


@pytest.mark.parametrize(("make", "native"), [(phi, False), (llama, True), (qwen3, False)])
def test_a_step_that_is_taken_apart_computes_the_same(make: object, native: bool) -> None:
    harness = RunnerHarness(make, engine_native=native)
    adapter = harness.adapter(1, 8)
    found = []
    for every in (1, 1000):
        harness.runner.timer = StepTimer(torch.device("cpu"), every=every)
        slots = [harness.runner.kv.allocate(20) for _ in range(2)]
        harness.runner.timer.begin()
        rows = [StepRow(slots[0], [5, 6, 7], adapter, 1), StepRow(slots[1], list(range(12)), None, 3)]  # type: ignore[arg-type]
        found.append(harness.runner.forward(rows))
        parts = harness.runner.timer.end()
        assert (parts is None) == (every == 1000)
        if parts is not None:
            assert [part for part in StepPart if parts[part] > 0] == [
                StepPart.LINEAR,
                StepPart.ATTENTION,
                StepPart.LORA,
            ]
    assert torch.equal(*found)


def test_a_models_size_is_that_of_its_linear_layers() -> None:
    hidden, inner, kv, vocab = 48, 96, 24, 320
    blocks = 3 * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner)
    for make in (llama, mistral):  # one by our own blocks, one by transformers'
        size = RunnerHarness(make).runner.size
        assert (size.block_weights, size.head_weights) == (blocks, hidden * vocab)
        assert size.weight_bytes == 4 * (blocks + hidden * vocab)


def test_requests_and_kept_prompts_share_what_is_free_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    limits = [RunnerHarness(llama, engine_prefix_bytes=size).runner.kv.limit_bytes for size in (0, 2**17, 2**20)]
    assert limits == [2**19, 2**19 - 2**17, 2**18]
    assert RunnerHarness(llama, engine_kv_bytes=2**21).runner.kv.limit_bytes == 2**21


@pytest.mark.parametrize("make", OWN_BLOCKS)
def test_the_quick_way_is_taken_where_the_architecture_is_known(make: object) -> None:
    assert isinstance(RunnerHarness(make).runner._way, OwnModel)


@pytest.mark.parametrize("make", [qwen2_with_windows, phi_with_normed_queries])
def test_transformers_modules_are_taken_where_a_known_block_has_an_option_that_is_not(make: object) -> None:
    assert isinstance(RunnerHarness(make).runner._way, TransformersPass)


def test_tokens_that_were_taken_back_leave_no_trace() -> None:
    harness = RunnerHarness(llama)
    slot = harness.runner.kv.allocate(20)
    assert slot is not None
    harness.runner.forward([StepRow(slot, [5, 6, 7, 99, 98, 97], None, 0)])
    slot.truncate(3)
    found_KV = harness.runner.forward([StepRow(slot, [8], None, 1)])
    torch.testing.assert_close(found_KV[0], harness.expected([5, 6, 7, 8], None)[-1], atol=TOLERANCE, rtol=0)


def test_a_model_that_attends_in_a_way_of_its_own_is_refused() -> None:
    def bloom() -> PreTrainedModel:
        return BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=48, n_layer=3, n_head=4))

    with pytest.raises(BaseModelInvalid, match="BloomForCausalLM cannot be served"):
        RunnerHarness(bloom)


def test_a_model_whose_attention_has_more_to_it_is_refused() -> None:
    def with_sinks() -> PreTrainedModel:
        sizes: dict[str, Any] = {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
        }
        return GptOssForCausalLM(GptOssConfig(**SIZES, **sizes, layer_types=["full_attention"] * 3))

    with pytest.raises(BaseModelInvalid, match="computes other logits than transformers does"):
        RunnerHarness(with_sinks)


def test_8_bits_are_refused_where_there_is_no_product_for_them() -> None:
    with pytest.raises(BaseModelInvalid, match="LORAMILL_ENGINE_WEIGHTS is int8, which needs a CPU, and"):
        RunnerHarness(llama, engine_weights="int8", engine_native=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_in_8_bits_is_near_the_one_it_was_made_from(dtype: DType) -> None:
    torch.manual_seed(0)
    plain = llama().eval().bfloat16()
    served, settings = serve_made(plain, dtype), Settings(home=home_with_kernels(), engine_weights="int8")
    if not can_quantize(served.device, served.dtype, load(settings.kernels_folder)):
        pytest.skip(f"no product of {dtype} with 8 bits here")
    runner = build_runner(served, settings)
    found, right = forward_in_parts(runner), plain.float()(input_ids=torch.tensor([PARTED])).logits[0]
    error = (found - right[:, : found.shape[1]]).norm() / right.norm()
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [llama, mistral])  # with one embedding for both ends, and with two
def test_weights_of_16_bits_stay_so_in_float32_and_give_its_logits(
    make: Callable[[], PreTrainedModel], kind: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = make().eval()
    stored = deepcopy(plain).to(kind)
    plain.load_state_dict(stored.state_dict())  # its angles stay in float32
    settings = Settings(home=home_with_kernels())
    kernels = load(settings.kernels_folder)
    if kernels is None or torch.float32 not in kernels.multiplied:
        pytest.skip("no compiler here, or a CPU without a product of float32")
    runner = build_runner(serve_made(stored, "float32"), settings)
    linears = [module.weight for module in stored.modules() if isinstance(module, nn.Linear)]
    assert runner.size.weight_bytes == sum(weight.nbytes for weight in linears)
    found, right = forward_in_parts(runner), plain(input_ids=torch.tensor([PARTED])).logits[0]
    torch.testing.assert_close(found, right[:, : found.shape[1]], atol=1e-4, rtol=1e-4)


PARTED = list(range(20, 40))


def forward_in_parts(runner: ModelRunner) -> Tensor:
    slot = runner.kv.allocate(len(PARTED))
    assert slot is not None
    parts = (PARTED[:15], PARTED[15:])
    return torch.cat([runner.forward([StepRow(slot, part, None, len(part))]) for part in parts])


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("make", ARCHITECTURES)
def test_in_bfloat16_each_architecture_is_near_its_own_float32(
    make: Callable[[], PreTrainedModel], native: bool
) -> None:
    torch.manual_seed(0)
    plain = make().eval()
    served = serve_made(plain, "bfloat16")
    runner = build_runner(served, Settings(home=home_with_kernels(), engine_native=native))
    found = forward_in_parts(runner)
    right = plain(input_ids=torch.tensor([PARTED])).logits[0, :, : found.shape[1]]
    error = (found - right).norm() / right.norm()
    assert 1e-5 < error < 0.05
