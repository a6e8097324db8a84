"""Memory that is put on huge pages still holds what it held."""

import sys

import pytest
import torch

from worker.inference.huge_pages import HUGE_PAGE_BYTES, use_huge_pages


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's call is Linux's")
def test_what_memory_holds_is_not_changed() -> None:
    numbers = torch.arange(4 * HUGE_PAGE_BYTES, dtype=torch.int32)
    taken = use_huge_pages()
    if taken == 0:
        pytest.skip("this kernel collapses no memory")
    assert numbers.equal(torch.arange(4 * HUGE_PAGE_BYTES, dtype=torch.int32))
    assert taken >= numbers.nbytes // 2
