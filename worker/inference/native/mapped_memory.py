"""Maps memory that is taken only as far as it is touched, on huge pages or on small ones.

What is read whole over and over has fewer misses of the TLB on huge pages. What is touched here and there would be
taken whole on them. What it holds is not known here.
"""

import contextlib
import mmap

import torch
from torch import Tensor


def map_zeros(size_bytes: int, *, huge: bool) -> mmap.mmap:
    """Map zeros of this process, on huge pages if the kernel has some for it, or on small ones only."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # it is Linux's
        return mmap.mmap(-1, size_bytes)
    # shared ones, as they are made otherwise, are on the pages of a file system in memory
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return memory


def lazy_zeros(numbers: int, dtype: torch.dtype) -> Tensor:
    """Give a row of zeros on small pages, that takes memory only as far as it is touched."""
    memory = map_zeros(max(1, numbers) * dtype.itemsize, huge=False)
    return torch.frombuffer(memory, dtype=dtype, count=numbers)  # keeps the mapping alive
