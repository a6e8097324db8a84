"""All blocks in one call: the same bits as block by block, whatever rows, adapters and caches a step has."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.process.cpu_levels import list_own_levels
from core.settings import CpuLevel, Settings
from tests.harness.models.kernels import home_with_kernels
from tests.harness.models.random_adapters import place_random
from tests.harness.models.served_models import serve
from tests.harness.models.tiny_models import store_in, write_tiny_llama, write_tiny_phi, write_tiny_qwen2
from worker.inference.kv_cache.slots import KvSlot
from worker.inference.lora.adapter import Adapter
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.contract import StepRow
from worker.inference.model.joined_blocks import JoinedBlocks
from worker.inference.model.native_ops import NativeOps
from worker.inference.model.ops import Rotation
from worker.inference.model.passes.blocks import OwnModel
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.inference.model.step_layout import Step
from worker.inference.native.build import load

WRITERS = [write_tiny_phi, write_tiny_llama, write_tiny_qwen2]


class CountedJoin(JoinedBlocks):
    """A model's joined blocks, which tell how many steps they took."""

    def __init__(self, joined: JoinedBlocks) -> None:
        vars(self).update(vars(joined))
        self.taken = 0

    def __call__(self, states_NH: Tensor, rotation: Rotation, step: Step, lora: LoraPlan) -> bool:
        is_taken = super().__call__(states_NH, rotation, step, lora)
        self.taken += is_taken
        return is_taken


class BothWays:
    """One model in two runners, of which the second takes no step in one call."""

    def __init__(self, folder: Path, level: CpuLevel) -> None:
        settings = Settings(home=home_with_kernels(), engine_lora_columns=64, engine_cpu_level=level)
        kernels = load(settings.kernels_folder, level)
        if kernels is None or torch.float32 not in kernels.multiplied:
            pytest.skip("no compiler here, or a level without a product of float32")
        self.joined, self.single = (build_runner(serve(folder, dtype="float32"), settings) for _ in range(2))
        own = own_model(self.joined)
        assert isinstance(own._joined, JoinedBlocks)
        self.counted = own._joined = CountedJoin(own._joined)
        own_model(self.single)._joined = None
        self._slots: list[tuple[KvSlot, KvSlot]] = []

    def adapter(self, number: int, rank: int, *targets: str, has_dora: bool = False) -> Adapter:
        """Make a random adapter of the layers whose names end so, by default all, and place it."""
        return place_random((self.joined, self.single), number, rank, *targets, has_dora=has_dora)

    def begin(self, tokens: int) -> int:
        """Take a slot in each runner; give the request's number."""
        slots = self.joined.kv.allocate(tokens), self.single.kv.allocate(tokens)
        assert slots[0] is not None
        assert slots[1] is not None
        self._slots.append((slots[0], slots[1]))
        return len(self._slots) - 1

    def feed(self, *fed: tuple[int, list[int], Adapter | None, int]) -> Tensor:
        """Feed requests tokens in both runners, and find the same logits and caches, bit by bit."""
        found, wanted = (
            runner.forward([StepRow(self._slots[n][which], ids, adapter, k) for n, ids, adapter, k in fed])
            for which, runner in enumerate((self.joined, self.single))
        )
        assert found.equal(wanted)
        for joined, single in self._slots:
            ours, theirs = (
                runner.kv.read(slot, 0, slot.length) for runner, slot in ((self.joined, joined), (self.single, single))
            )
            assert ours.equal(theirs)
        return found


def own_model(runner: ModelRunner) -> OwnModel:
    assert isinstance(runner._way, OwnModel)
    return runner._way


@pytest.fixture(params=[level.name for level in list_own_levels() if level.name != "portable"])
def level(request: pytest.FixtureRequest) -> CpuLevel:
    name: CpuLevel = request.param
    return name


@pytest.fixture(autouse=True)
def _inference() -> object:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_any_mix_gives_the_same_bits_as_block_by_block(
    write: Callable[[Path], Path], kind: torch.dtype, level: CpuLevel, tmp_path: Path
) -> None:
    both = BothWays(store_in(kind, write(tmp_path / "model")), level)
    adapters = [None, both.adapter(1, 8), both.adapter(2, 3), both.adapter(3, 16, "q_proj", "v_proj"), None]
    rng = random.Random(3)
    requests = [(both.begin(rng.choice([60, 200])), rng.choice(adapters)) for _ in range(7)]
    for _ in range(25):
        chosen = rng.sample(requests, rng.randint(1, len(requests)))
        fed = []
        for number, adapter in chosen:
            tokens = rng.choice([1, 1, 1, 4, 12])
            if both._slots[number][0].length + tokens < 60:
                fed.append((number, [rng.randrange(250) for _ in range(tokens)], adapter, rng.randint(0, tokens)))
        if fed:
            both.feed(*fed)
    assert both.counted.taken >= 20


def test_adapters_of_other_layers_from_step_to_step_are_each_applied(level: CpuLevel, tmp_path: Path) -> None:
    both = BothWays(store_in(torch.bfloat16, write_tiny_llama(tmp_path / "model")), level)
    attention, mlp = both.adapter(1, 8, "v_proj"), both.adapter(2, 8, "down_proj")
    request = both.begin(60)
    answers = []
    for adapter in (None, attention, mlp, attention, None):
        answers.append(both.feed((request, [7], adapter, 1)))
        for slot in both._slots[request]:
            slot.truncate(0)
    assert answers[0].equal(answers[4])
    assert answers[1].equal(answers[3])
    assert not answers[0].equal(answers[1])
    assert not answers[1].equal(answers[2])


def test_tensors_of_a_cache_that_grew_are_found(level: CpuLevel, tmp_path: Path) -> None:
    both = BothWays(store_in(torch.bfloat16, write_tiny_llama(tmp_path / "model")), level)
    requests = []
    for number in range(5):  # each of which makes the arena anew
        requests.append(both.begin(60))
        both.feed(*((request, [3 + number], None, 1) for request in requests))
    assert both.counted.taken == 5


@pytest.mark.parametrize("reason", ["dora", "crossover"])
def test_a_step_that_needs_torchs_products_goes_block_by_block(reason: str, level: CpuLevel, tmp_path: Path) -> None:
    both = BothWays(store_in(torch.bfloat16, write_tiny_llama(tmp_path / "model")), level)
    adapter = both.adapter(1, 8, has_dora=reason == "dora")
    for runner in (both.joined, both.single):
        ops = own_model(runner)._ops
        assert isinstance(ops, NativeOps)
        ops.crossover = 0 if reason == "crossover" else ops.crossover
    request = both.begin(60)
    both.feed((request, list(range(20)), adapter, 3))
    assert both.counted.taken == 0
    both.feed((request, list(range(20)), None, 3))
    assert both.counted.taken == 1


def test_weights_that_are_no_numbers_of_16_bits_are_not_joined(level: CpuLevel, tmp_path: Path) -> None:
    settings = Settings(home=home_with_kernels(), engine_cpu_level=level)
    runner = build_runner(serve(write_tiny_llama(tmp_path / "model"), dtype="float32"), settings)
    assert own_model(runner)._joined is None
