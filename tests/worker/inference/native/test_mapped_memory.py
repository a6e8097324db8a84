"""Mapped memory holds zeros that can be written, and is taken only as far as it is touched."""

import sys

import psutil
import pytest
import torch

from worker.inference.native.mapped_memory import lazy_zeros

HUGE_PAGE_BYTES = 2**21


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages are of one size, or of the system's choice")
def test_lazy_zeros_that_are_touched_here_and_there_take_only_that() -> None:
    process = psutil.Process()
    numbers = lazy_zeros(256 * HUGE_PAGE_BYTES, torch.int8)
    before = process.memory_info().rss
    numbers[::HUGE_PAGE_BYTES] = 1
    assert process.memory_info().rss - before < 64 * HUGE_PAGE_BYTES
