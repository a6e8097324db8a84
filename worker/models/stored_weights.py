"""A base model's tensors, read one by one from its safetensors files by their names.

Nothing is kept here: a tensor belongs to whoever asked for it, and is gone when that lets go of it. What the tensors
mean, and which there should be, is not known here. The files' format is ``core.base_models.tensor_files``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from core.base_models.registry import weight_files
from core.base_models.tensor_files import list_tensors
from core.errors import BaseModelInvalid

_DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class StoredWeights:
    """The tensors of one folder, for one device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read the files' headers, milliseconds for some hundred tensors.

        Raises:
            BaseModelInvalid: a file is missing, cut short or malformed.
        """
        self._folder = folder
        self._tensors = {tensor.name: tensor for path in weight_files(folder) for tensor in list_tensors(path)}
        self.device = device

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a folder that does not hold all of these tensors.

        Raises:
            BaseModelInvalid: naming one that is missing, has another shape, or holds no floating-point numbers.
        """
        absent = sorted(shapes.keys() - self._tensors.keys())
        if absent:
            raise BaseModelInvalid(f"{self._folder} lacks {len(absent)} of the model's tensors, {absent[0]} among them")
        for name, shape in shapes.items():
            stored = self._tensors[name]
            if stored.shape != shape:
                raise BaseModelInvalid(
                    f"{self._folder} holds {name} in the shape {stored.shape}; config.json asks for {shape}"
                )
            if stored.dtype not in _DTYPES:
                raise BaseModelInvalid(f"{self._folder} holds {name} as {stored.dtype}, which cannot be computed with")

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Give a tensor that `check` has found; without ``dtype`` as it is stored.

        Raises:
            BaseModelInvalid: its file was cut short meanwhile.
        """
        stored = self._tensors[name]
        raw = torch.empty(stored.bytes, dtype=torch.uint8)
        # read rather than mapped: a file that is cut short later on must not end the process
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.offset)
            _fill(raw.numpy().data, file.readinto, stored.path)
        return raw.view(_DTYPES[stored.dtype]).view(stored.shape).to(self.device, dtype)


def _fill(buffer: memoryview, read_into: Callable[[memoryview], int | None], path: Path) -> None:
    """Read until the buffer is full; one call reads 2 GiB at most."""
    filled = 0
    while filled < len(buffer):
        count = read_into(buffer[filled:])
        if not count:
            raise BaseModelInvalid(f"{path} was cut short while it was read")
        filled += count
