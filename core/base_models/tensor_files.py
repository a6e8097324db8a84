"""Reading of safetensors files without torch: which tensors one holds, and their bytes.

Only the container format is known here (safetensors 0.7's description of it); no number is decoded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import BaseModelInvalid

MAX_HEADER_BYTES: Final = 100_000_000  # the reference implementation's own cap
_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie; ``offset`` counts from the file's start."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def list_tensors(path: Path) -> list[StoredTensor]:
    """List a safetensors file's tensors.

    Raises:
        BaseModelInvalid: the file is missing, cut short, or its header is malformed or over the cap.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
                raise BaseModelInvalid(f"{path} is not a safetensors file: its header's length is wrong")
            header = json.loads(file.read(header_bytes))
        start = 8 + header_bytes
        tensors = [_tensor(path, start, name, entry) for name, entry in header.items() if name != "__metadata__"]
    except FileNotFoundError as error:
        raise BaseModelInvalid(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelInvalid(f"{path} is not a safetensors file: its header is malformed") from error
    if any(tensor.bytes < 0 or tensor.offset < start or tensor.offset + tensor.bytes > size for tensor in tensors):
        raise BaseModelInvalid(f"{path} is cut short: a tensor lies outside the file")
    return tensors


def _tensor(path: Path, start: int, name: str, entry: dict[str, object]) -> StoredTensor:
    begin, end = (int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    shape = tuple(int(length) for length in entry["shape"])  # type: ignore[attr-defined]
    return StoredTensor(path, name, str(entry["dtype"]), shape, start + begin, end - begin)


def update_with_bytes(digest: "hashlib._Hash", tensor: StoredTensor) -> None:
    """Feed a tensor's bytes to a hash, in small pieces."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        left = tensor.bytes
        while left:
            chunk = file.read(min(_CHUNK_BYTES, left))
            if not chunk:
                raise BaseModelInvalid(f"{tensor.path} was cut short while it was read")
            digest.update(chunk)
            left -= len(chunk)
