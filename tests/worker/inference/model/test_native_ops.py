"""The compiled operations of a block: that what decides between ways of computing changes no result."""

import pytest
import torch

from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan, LoraSegment
from worker.inference.model.native_ops import NativeOps, crossover_trial
from worker.inference.model.ops import TorchOps
from worker.inference.native.build import load
from worker.inference.native.kernels import Kernels
from worker.inference.tuning.trial_timer import TrialTimer


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = load(Settings(home=home_with_kernels()).kernels_folder)
    if found is None:
        pytest.skip("no C++ compiler is on this machine")
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("crossover", [0, 10**9])
def test_either_side_of_the_crossover_gives_what_torch_gives(
    kernels: Kernels, dtype: torch.dtype, crossover: int
) -> None:
    torch.manual_seed(0)
    group = LoraGroup(["q", "k"], 48, [32, 20])
    group.a_LRI, group.b_RO = (
        torch.randn(2, 16, 48).to(dtype),
        (torch.randn(16, 32).to(dtype), torch.randn(16, 20).to(dtype)),
    )
    none = torch.empty(0, dtype=torch.int32)
    plan = LoraPlan(
        (LoraSegment(slice(1, 40), slice(8, 16), None, is_shared=False),), (), {}, none, none, frozenset(["q", "k"])
    )
    x, y = torch.randn(41, 48).to(dtype), torch.randn(41, 52).to(dtype)
    ours, torchs = y.clone(), y.clone()
    with torch.inference_mode():
        NativeOps(kernels, crossover).add_lora(group, x, ours, plan)
        TorchOps().add_lora(group, x, torchs, plan)
    tolerance = 1e-4 if dtype == torch.float32 else 0.5  # of sums of up to 60; bfloat16 keeps 8 bits
    torch.testing.assert_close(ours, torchs, atol=tolerance, rtol=tolerance / 10)
    assert not ours.equal(y)
    assert ours[[0, 40]].equal(y[[0, 40]])


def test_the_crossover_is_found_within_bounds(kernels: Kernels) -> None:
    ops = NativeOps(kernels)
    trial = crossover_trial(ops, torch.bfloat16)
    found = trial.find(TrialTimer(torch.device("cpu")))
    trial.use(found)
    assert trial.kind.validate_python(found) == ops.crossover
