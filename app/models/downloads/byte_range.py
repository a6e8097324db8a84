"""Which bytes of a download a client asks for (RFC 9110, 14). What the bytes are is not known here."""

import re
from typing import Final

from core.errors import RangeNotSatisfiable

# From a place on, between two, or the last so many. Eighteen digits are more bytes than there are.
_ONE_RANGE: Final = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def read_range(asked: str | None, only_if: str | None, *, etag: str, size_bytes: int) -> tuple[int, int] | None:
    """Give the first byte, and the one behind the last, of what is asked for; None: all of it.

    Several ranges, other units and what cannot be read are answered with all, as the standard has it.

    Args:
        asked: the header Range.
        only_if: the header If-Range. If it is not this etag, the client has the beginning of something else.

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    found = _ONE_RANGE.fullmatch((asked or "").replace(" ", ""))
    if found is None or only_if not in (None, etag):
        return None
    first, last, tail = found.groups()
    if tail is not None:
        start, stop = max(size_bytes - int(tail), 0), size_bytes
    else:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None  # malformed
    if start >= size_bytes:  # as the last none of the bytes are, too
        raise RangeNotSatisfiable(size_bytes)
    return start, stop
