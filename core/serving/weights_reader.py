"""An adapter's safetensors file, read once from front to back: its header, each tensor into one buffer, and all hashed.

The container's rules (safetensors 0.7's description of its format) are held to strictly: each tensor begins where
the one before ends. Torch-free; which tensors there should be, and what their numbers are, is not known here.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

from core.errors import AdapterInvalid
from core.serving.adapter_format import WEIGHTS
from core.serving.strict_json import parse_object, shown

HEADER_LIMIT_BYTES: Final = 2**20  # a LoRA on every layer of a 7 B model needs about 100 kB

_LENGTH_BYTES: Final = 8  # of the header's length, which comes first
_CHUNK_BYTES: Final = 2**20

NumberType = Literal["F32", "BF16"]
BYTES_OF_NUMBER: Final[dict[NumberType, int]] = {"F32": 4, "BF16": 2}


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor."""

    name: str
    kind: NumberType
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * BYTES_OF_NUMBER[self.kind]


class WeightsReader:
    """One pass over a file of so many bytes; ``finish`` ends it.

    Every method raises AdapterInvalid when the file is cut short or malformed, and OSError when it cannot be read.
    """

    def __init__(self, digest: str, file: BinaryIO, size_bytes: int) -> None:
        self._digest = digest
        self._file = file
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._left_bytes = size_bytes

    def read_header(self) -> list[TensorEntry]:
        """Read what the file holds, in the order of the tensors' bytes."""
        if self._left_bytes < _LENGTH_BYTES:
            raise self._refusal("is cut short")
        (header_bytes,) = struct.unpack("<Q", self._read(_LENGTH_BYTES))
        if header_bytes > min(HEADER_LIMIT_BYTES, self._left_bytes):
            raise self._refusal(f"is no safetensors file, or its header is over {HEADER_LIMIT_BYTES:,} bytes")
        try:
            header = parse_object(bytes(self._read(header_bytes)))
        except ValueError as error:
            raise self._refusal(f"is no safetensors file: its header is no JSON: {error}") from error
        header.pop("__metadata__", None)
        return self._in_order(header)

    def read_bytes(self, entry: TensorEntry) -> memoryview:
        """Give the next tensor's numbers, little endian; the next call overwrites them."""
        return self._read(entry.bytes)

    def finish(self) -> str:
        """Read what is left, and give the SHA-256 of the whole file."""
        while self._left_bytes:
            self._read(min(_CHUNK_BYTES, self._left_bytes))
        return self._hash.hexdigest()

    def _in_order(self, header: dict[str, Any]) -> list[TensorEntry]:
        placed = sorted((self._entry(name, value) for name, value in header.items()), key=lambda pair: pair[1])
        end = 0
        for entry, begin in placed:
            if begin != end:
                raise self._refusal(f"has a hole before tensor {shown(entry.name)}, or it lies over another")
            end += entry.bytes
        if end != self._left_bytes:
            raise self._refusal(f"has {self._left_bytes:,} bytes of tensors, its header tells of {end:,}")
        return [entry for entry, _ in placed]

    def _entry(self, name: str, value: Any) -> tuple[TensorEntry, int]:
        """Read one entry of the header; give it with the place of its first byte."""
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise self._refusal(f"says of tensor {shown(name)} something else than dtype, shape and data_offsets")
        shape, offsets = value["shape"], value["data_offsets"]
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise self._refusal(f"has a malformed shape or place of tensor {shown(name)}")
        if value["dtype"] not in ("F32", "BF16"):
            raise self._refusal(f"has tensor {shown(name)} as {shown(str(value['dtype']))}, not as F32 or BF16")
        entry = TensorEntry(name, value["dtype"], tuple(shape))
        begin, end = offsets
        if end - begin != entry.bytes:
            raise self._refusal(f"has another number of bytes for tensor {shown(name)} than its shape has")
        return entry, begin

    def _read(self, count: int) -> memoryview:
        """Fill the buffer's beginning with the next bytes."""
        if len(self._buffer) < count:
            self._buffer = bytearray(count)
        window = memoryview(self._buffer)[:count]
        got = 0
        while got < count:
            step = self._file.readinto(window[got:])  # type: ignore[attr-defined]  # BinaryIO leaves it out
            if not step:
                raise self._refusal("was cut short while it was read")
            got += step
        self._hash.update(window)
        self._left_bytes -= count
        return window

    def _refusal(self, reason: str) -> AdapterInvalid:
        return AdapterInvalid(self._digest, f"{WEIGHTS} {reason}")


def _are_sizes(values: Any) -> bool:
    """Tell whether it is a list of counts that fit 48 bits, no more than a tensor can have axes."""
    return (
        isinstance(values, list) and len(values) <= 8 and all(type(one) is int and 0 <= one < 2**48 for one in values)
    )
