"""Asks the kernel to put memory on huge pages: weights are then read with fewer misses of the TLB.

Linux only (6.1 and later); elsewhere nothing happens. What the memory holds is not known here.
"""

import contextlib
import ctypes
import logging
import mmap
import sys
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MADV_COLLAPSE: Final = 25  # of linux/mman.h, which Python's mmap does not know
HUGE_PAGE_BYTES: Final = 2**21


def use_huge_pages() -> int:
    """Collapse what anonymous memory there is into huge pages where the kernel can; give the bytes it took on."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "malloc_trim"):  # glibc's; what was freed would be taken on again in whole pages
        libc.malloc_trim(0)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    taken = 0
    for begin, end in _anonymous_memory():
        begin += -begin % HUGE_PAGE_BYTES
        end -= end % HUGE_PAGE_BYTES
        # The kernel stops at the first part that it cannot collapse, so parts are asked for one by one.
        for page in range(begin, end, HUGE_PAGE_BYTES):
            if libc.madvise(page, HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0:
                taken += HUGE_PAGE_BYTES
    logger.info("%d MiB of memory are on huge pages", taken // 2**20)
    return taken


def lazy_zeros(numbers: int, dtype: torch.dtype) -> Tensor:
    """Give a row of zeros that takes memory only as far as it is touched, on huge pages where the kernel has some."""
    memory = mmap.mmap(-1, max(1, numbers) * dtype.itemsize)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=numbers)  # keeps the mapping alive


def _anonymous_memory() -> list[tuple[int, int]]:
    """Give begin and end of the writable mappings that no file stands behind."""
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, inode, *name = line.split()
        if permissions == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            mappings.append((begin, end))
    return mappings
