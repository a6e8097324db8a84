"""An adapter's stored safetensors file as torch's tensors, each of them in the same buffer.

What the file must be like is ``core.serving.weights_reader``'s; which tensors there should be is not known here.
"""

import math
import os
from typing import BinaryIO, Final

import torch
from torch import Tensor

from core.serving.adapter_format import WEIGHTS, FileDigest
from core.serving.adapter_trust import damaged, wrong_size
from core.serving.weights_reader import NumberType, TensorEntry, WeightsReader

_DTYPES: Final[dict[NumberType, torch.dtype]] = {"F32": torch.float32, "BF16": torch.bfloat16}


class WeightsFile(WeightsReader):
    """One pass over a file; ``check_digest`` ends it, and only then is what was read to be trusted."""

    def __init__(self, digest: str, file: BinaryIO, listed: FileDigest) -> None:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size_bytes != listed.bytes:
            raise wrong_size(digest, WEIGHTS, size_bytes, listed)
        super().__init__(digest, file, size_bytes)
        self._listed = listed

    def read_tensor(self, entry: TensorEntry) -> Tensor:
        """Give the next tensor, on the CPU; the next call overwrites it."""
        numbers = self.read_bytes(entry)
        return torch.frombuffer(numbers, dtype=_DTYPES[entry.kind], count=math.prod(entry.shape)).view(entry.shape)

    def check_digest(self) -> None:
        """Read what is left, and refuse a file that is not the one its manifest names."""
        if self.finish() != self._listed.sha256:
            raise damaged(self._digest, WEIGHTS, self._listed.sha256)
