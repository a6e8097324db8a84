"""Writes a safetensors file tensor by tensor, so that a model larger than the memory can be written.

The format is safetensors 0.7's description of it; what the tensors are is not known here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

_NAMES: Final = {torch.float32: "F32", torch.bfloat16: "BF16"}


def write_tensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, read: Callable[[str], Tensor]
) -> None:
    """Write a file of tensors of one type.

    Args:
        shapes: of all tensors, in the order in which they are written.
        read: gives one of them, in any floating-point type.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for name, shape in shapes.items():
            tensor = read(name).to(dtype).contiguous()
            assert tensor.shape == tuple(shape), "the header tells of it already"
            file.write(tensor.view(torch.uint8).numpy().data)
