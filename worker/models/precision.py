"""Which device a base model is loaded on, and in which number type: decided by timing it, not by a list of chips."""

import math
import time
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from core.base_models.registry import DType
from core.process.gpu import VISIBLE, expects_gpu

# A matrix product in bfloat16 must be at least this much faster than in float32 to be worth its
# rounding; where the CPU has no such instructions it is several times slower.
WORTHWHILE_SPEEDUP = 1.3
# Where it takes so many times as long twice in a row, it is emulated, and each further try would take as long.
HOPELESS = 5

PROBE_ROWS, PROBE_WIDTH, PROBE_REPEATS = 128, 1024, 5
AMPERE = (8, 0)  # first CUDA capability with bfloat16 matrix units


def choose_device() -> torch.device:
    """Give the GPU where there is one that works; else, as `find_gpu_fault` may tell, the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_gpu_fault(environ: Mapping[str, str]) -> str | None:
    """Say why torch cannot use the GPU that this process was given; None: it can, or the CPU was asked for.

    Who hid the GPU or installed torch for CPUs asked for it.
    """
    if torch.cuda.is_available() or torch.version.cuda is None or not expects_gpu(environ):
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return f"CUDA shows no GPU ({VISIBLE}={environ.get(VISIBLE, '')})"


def _best_product_s(rows: Tensor, weights: Tensor, *, hopeless_s: float = math.inf) -> float:
    """Give the shortest of some times; two that are hopeless end it early."""
    times_s: list[float] = []
    while len(times_s) <= PROBE_REPEATS:  # the first also pays for set-up; the minimum leaves it out
        began = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times_s.append(time.perf_counter() - began)
        if len(times_s) > 2 and min(times_s[1:]) > hopeless_s:
            break
    return min(times_s)


@cache
def bf16_speedup(rows: int = PROBE_ROWS, width: int = PROBE_WIDTH) -> float:
    """Give how many times as fast as in float32 this CPU multiplies matrices in bfloat16.

    Two products of (rows, width) by (width, width) are timed, the best of six each: some tenths of a second, as it is.
    """
    with torch.inference_mode():
        left, weights = torch.ones(rows, width), torch.ones(width, width)
        fp32_s = _best_product_s(left, weights)
        bf16_s = _best_product_s(left.bfloat16(), weights.bfloat16(), hopeless_s=HOPELESS * fp32_s)
    return fp32_s / bf16_s


def fast_bf16() -> bool:
    """Tell whether this machine multiplies matrices in bfloat16 clearly faster than in float32."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= AMPERE
    return bf16_speedup() > WORTHWHILE_SPEEDUP


def resolve_dtype(dtype: DType) -> torch.dtype:
    """Give torch's type for a setting; "auto" is bfloat16 where that is fast. Never float16: Phi overflows in it."""
    if dtype == "auto":
        return torch.bfloat16 if fast_bf16() else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
