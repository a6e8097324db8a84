"""Memory that is put on huge pages still holds what it held."""

import sys

import psutil
import pytest
import torch

from worker.inference.native.huge_pages import HUGE_PAGE_BYTES, lazy_zeros, use_huge_pages


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's call is Linux's")
def test_what_memory_holds_is_not_changed() -> None:
    numbers = torch.arange(4 * HUGE_PAGE_BYTES, dtype=torch.int32)
    taken = use_huge_pages()
    if taken == 0:
        pytest.skip("this kernel collapses no memory")
    assert numbers.equal(torch.arange(4 * HUGE_PAGE_BYTES, dtype=torch.int32))
    assert taken >= numbers.nbytes // 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lazy_zeros_are_zeros_that_can_be_written(dtype: torch.dtype) -> None:
    numbers = lazy_zeros(3 * HUGE_PAGE_BYTES + 5, dtype)
    assert numbers.shape == (3 * HUGE_PAGE_BYTES + 5,)
    assert not numbers.any()
    numbers[-5:] = 1
    assert numbers.sum().item() == 5


def test_lazy_zeros_take_no_memory_until_they_are_touched() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    numbers = lazy_zeros(2**30, torch.bfloat16)
    assert process.memory_info().rss - before < 2**28
    assert numbers[2**29].item() == 0
