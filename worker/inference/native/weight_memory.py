"""Memory for weights, of a model or of a large adapter: mappings on huge pages, in which tensors lie close together.

A layer's matrix can be smaller than a huge page. Among what else a process allocates it would lie on small ones, and
what was freed around it would stay with the process. What the tensors mean is not known here.
"""

import mmap
import threading
from typing import Final

import torch
from torch import Tensor

from worker.inference.native.mapped_memory import map_zeros

MAPPING_BYTES: Final = 2**26  # what is not touched of one takes no memory
LINE_BYTES: Final = 64  # of the cache, at which a tensor begins


class WeightMemory:
    """Makes copies of tensors, from any thread; a mapping is given back when all tensors in it are gone."""

    def __init__(self, first: mmap.mmap | None = None) -> None:
        """Use this mapping first; None: one of its own, of which what is not touched takes no memory."""
        self._lock = threading.Lock()  # guards the two below
        self._mapping = first
        self._used_bytes = 0

    def copy(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Give a contiguous copy, in another type if one is named."""
        dtype = dtype or tensor.dtype
        mapping, begin = self._reserve(tensor.numel() * dtype.itemsize)
        flat = torch.frombuffer(mapping, dtype=dtype, count=tensor.numel(), offset=begin)
        return flat.view(tensor.shape).copy_(tensor)

    def _reserve(self, size_bytes: int) -> tuple[mmap.mmap, int]:
        with self._lock:
            if self._mapping is None or self._used_bytes + size_bytes > len(self._mapping):
                self._mapping, self._used_bytes = map_zeros(max(MAPPING_BYTES, size_bytes), huge=True), 0
            begin = self._used_bytes
            self._used_bytes += size_bytes + -size_bytes % LINE_BYTES
            return self._mapping, begin
