"""Numbers that are not finite are told from their bytes, whichever they are and wherever they stand."""

import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.models.imports import numbers
from app.models.imports.numbers import are_finite

WORDS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@given(WORDS)
@example([0x7F800000])
@example([0xFF800001])
@example([0x7F7FFFFF, 0x00800000, 0x80000000])
@example([0x7F000000, 0x00800000])  # the bits of an infinity, in two numbers
def test_numbers_of_32_bits(words: list[int]) -> None:
    packed = struct.pack(f"<{len(words)}I", *words)
    expected = all(map(math.isfinite, struct.unpack(f"<{len(words)}f", packed)))
    assert are_finite(memoryview(packed), "F32") is expected


@given(WORDS)
@example([0x7F80])
@example([0xFFC1])
@example([0x7F7F, 0x0080])
def test_numbers_of_16_bits(words: list[int]) -> None:
    halves = [word & 0xFFFF for word in words]
    packed = struct.pack(f"<{len(halves)}H", *halves)
    widened = struct.unpack(f"<{len(halves)}f", b"".join(struct.pack("<I", half << 16) for half in halves))
    assert are_finite(memoryview(packed), "BF16") is all(map(math.isfinite, widened))


@pytest.mark.parametrize("place", [0, 6, 7, 8, 20])
def test_one_among_many_is_found_in_every_chunk(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(numbers, "_CHUNK_NUMBERS", 7)
    packed = bytearray(struct.pack("<21f", *range(21)))
    assert are_finite(memoryview(packed), "F32")
    packed[4 * place : 4 * place + 4] = struct.pack("<f", -math.inf)
    assert not are_finite(memoryview(packed), "F32")
