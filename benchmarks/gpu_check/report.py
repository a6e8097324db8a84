"""What a check found, for people and for programs."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import PartResult, Setting
from benchmarks.host import machine

WIDTH = 118


def write(path: Path, about: dict[str, Any], results: Sequence[PartResult]) -> None:
    """Write all results so far, whole or not at all."""
    machine.write_result(path, about | {"counts": count(results), "parts": [one.as_dict() for one in results]})


def describe(setting: Setting) -> dict[str, Any]:
    """Say on what is checked; the GPU's name is a figure of its part."""
    return {"device": setting.device, "is_miniature": setting.is_miniature, "machine": machine.describe()}


def count(results: Sequence[PartResult]) -> dict[str, int]:
    verdicts = [one.verdict for one in results]
    return {verdict: verdicts.count(verdict) for verdict in ("held", "failed", "skipped")}


def line(one: PartResult) -> str:
    """Write a part's line of the table, and under it why it did not hold."""
    head = f"{one.verdict:<8}{one.seconds:>6.1f} s  {one.name:<27}"
    said = one.claim if one.why is None else f"{one.why} (claimed: {one.claim})"
    return textwrap.fill(said, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def figure_lines(one: PartResult) -> list[str]:
    """Write a part's figures, a line each, cut where they are long; the file has them whole."""
    return [
        "  " + textwrap.shorten(f"{name}: {json.dumps(_rounded(value))}", WIDTH - 2, placeholder=" …")
        for name, value in one.figures.items()
    ]


def _rounded(value: Any) -> Any:
    """Give a figure with four digits, and lists and objects of figures likewise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
