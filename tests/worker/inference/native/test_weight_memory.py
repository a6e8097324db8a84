"""Weights lie close together on huge pages, once, and leave with whoever holds them."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from tests.worker.inference.huge_pages import gives_huge_pages, on_huge_pages
from worker.inference.model.projections.projection import NativeProjection, maker
from worker.inference.native.kernels import Kernels
from worker.inference.native.weight_memory import MAPPING_BYTES, WeightMemory

linux = pytest.mark.skipif(sys.platform != "linux", reason="it is asked of Linux' kernel")

# In a process of its own, so that nothing is free in it that new memory could be taken from.
HELD = """
import psutil, sys, torch
from pathlib import Path
from worker.inference.model.projections.projection import maker
from worker.inference.native.build import load
from worker.inference.native.unused_memory import release_unused_memory
kernels = load(Path(sys.argv[1]))
make, dtype = maker("model", kernels), next(iter(kernels.multiplied))
torch.ones(1536, 576, dtype=torch.bfloat16).add_(1)
release_unused_memory()
before = psutil.Process().memory_info().rss
made = [make(torch.ones(1536, 576, dtype=torch.bfloat16), None, dtype) for _ in range(64)]
release_unused_memory()
print(psutil.Process().memory_info().rss - before, sum(one.weight_bytes for one in made))
"""


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def test_copies_are_what_was_copied_in_its_order() -> None:
    memory, wanted = WeightMemory(), [numbers(1 + 37 * seed, seed).t() for seed in range(8)]
    copies = [memory.copy(tensor) for tensor in wanted]
    assert all(copy.equal(tensor) and copy.is_contiguous() for copy, tensor in zip(copies, wanted, strict=True))


def test_a_copy_is_in_the_type_that_is_named() -> None:
    tensor = numbers(40)
    assert WeightMemory().copy(tensor, torch.bfloat16).equal(tensor.bfloat16())


def test_threads_copy_beside_each_other() -> None:
    memory, wanted = WeightMemory(), [numbers(100, seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as threads:
        copies = list(threads.map(memory.copy, wanted))
    assert all(copy.equal(tensor) for copy, tensor in zip(copies, wanted, strict=True))


def test_tensors_lie_close_together() -> None:
    memory = WeightMemory()
    first, second = memory.copy(numbers(5)), memory.copy(numbers(5))
    assert first.nbytes <= second.data_ptr() - first.data_ptr() < first.nbytes + 64


def test_what_is_larger_than_a_mapping_has_one_of_its_own() -> None:
    large = torch.arange(MAPPING_BYTES // 4 + 1, dtype=torch.int32)
    memory = WeightMemory()
    memory.copy(numbers(5))
    assert memory.copy(large).equal(large)


def test_a_mapping_leaves_with_its_last_tensor() -> None:
    process, memory = psutil.Process(), WeightMemory()
    before = process.memory_info().rss
    held = memory.copy(torch.ones(MAPPING_BYTES, dtype=torch.int8))
    assert process.memory_info().rss - before > MAPPING_BYTES // 2
    del held, memory
    gc.collect()
    assert process.memory_info().rss - before < MAPPING_BYTES // 2


@linux
def test_weights_are_on_huge_pages() -> None:
    if not gives_huge_pages():
        pytest.skip("this kernel gives none")
    before = on_huge_pages()
    held = WeightMemory().copy(torch.ones(MAPPING_BYTES, dtype=torch.int8))
    assert on_huge_pages() - before > held.nbytes // 2


def test_projections_in_panels_keep_their_weights_there(kernels: Kernels) -> None:
    if not kernels.multiplied:
        pytest.skip("this level has no products")
    make, dtype = maker("model", kernels), next(iter(kernels.multiplied))
    projections = [make(torch.ones(16, 32), None, dtype) for _ in range(2)]
    assert all(isinstance(one, NativeProjection) for one in projections)
    first, second = (one.panels.panels.data_ptr() for one in projections if isinstance(one, NativeProjection))
    assert abs(second - first) < MAPPING_BYTES


@linux
def test_a_process_holds_weights_once(native_folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HELD, str(native_folder)], capture_output=True, text=True, check=True)
    taken, weights = map(int, done.stdout.split())
    assert weights < taken + 2**22
    assert taken < 1.1 * weights
