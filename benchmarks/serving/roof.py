"""What a decode step must read from memory at least, and how near to the memory's rate steps come. Times nothing."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.base_models.registry import weight_files
from core.base_models.tensor_files import list_tensors
from worker.models.serving import EMBEDDING


def weight_bytes(base: Path) -> int:
    """Give what a decode step must read of the weights: all but an embedding that it looks rows up in.

    In 16 bits, as they are stored and as our kernels read them, whatever is computed in.
    """
    numbers = {tensor.name: math.prod(tensor.shape) for path in weight_files(base) for tensor in list_tensors(path)}
    looked_up = numbers[EMBEDDING] if "lm_head.weight" in numbers else 0
    return torch.bfloat16.itemsize * (sum(numbers.values()) - looked_up)


def roofs(
    measured: dict[str, Any], variants: Sequence[str], read_bytes: dict[int, int], gb_per_s: Sequence[float]
) -> dict[str, Any]:
    """Give the share of the memory's rate that base steps reach, of the fastest variant for each number of rows.

    Args:
        gb_per_s: the rate in each repeat. Where neighbours share the memory it doubles and halves within a minute, so
            a repeat's steps are held against its own, and the share is the median over repeats.
    """
    shares = {}
    for rows, count in read_bytes.items():
        fastest = min(
            (measured[f"{variant} base {rows}"] for variant in variants), key=lambda steps: float(steps["median_ms"])
        )
        each = (count / 1e6 / ms / rate for ms, rate in zip(fastest["ms"], gb_per_s, strict=True))
        shares[str(rows)] = statistics.median(each)
    return shares | {"worst": min(shares.values()), "read_bytes": read_bytes, "gb_per_s": list(gb_per_s)}
