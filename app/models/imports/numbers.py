"""Whether all numbers of a tensor are finite, told from their bytes: nothing here waits for a library of arrays.

IEEE 754: a number is infinite, or none at all, where all bits of its exponent are set. In both types these are the
eight bits behind the sign's, so they lie in the last two bytes of a little-endian number.
"""

from typing import Final

from core.serving.weights_reader import BYTES_OF_NUMBER, NumberType

_CHUNK_NUMBERS: Final = 2**18
# by a byte's value: 1 where its seven low bits are set, and where its highest is
_SEVEN_SET: Final = bytes(value & 0x7F == 0x7F for value in range(256))
_EIGHTH_SET: Final = bytes(value >> 7 for value in range(256))


def are_finite(numbers: memoryview, kind: NumberType) -> bool:
    """Tell whether none is infinite or no number."""
    width = BYTES_OF_NUMBER[kind]
    step = _CHUNK_NUMBERS * width
    return all(_chunk_is_finite(bytes(numbers[at : at + step]), width) for at in range(0, len(numbers), step))


def _chunk_is_finite(chunk: bytes, width: int) -> bool:
    last, last_but_one = chunk[width - 1 :: width], chunk[width - 2 :: width]
    # all of them at once, as one long integer each
    return not int.from_bytes(last.translate(_SEVEN_SET)) & int.from_bytes(last_but_one.translate(_EIGHTH_SET))
