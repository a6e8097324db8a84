"""Rows as aligned text, which unlike a drawn table stays whole in narrow terminals and pipes."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]]) -> str:
    """Give one line a row, each column as wide as its widest cell; the last one is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1:] = [0]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
