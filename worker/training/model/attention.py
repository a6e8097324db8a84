"""Causal attention inside each segment of a packed micro-batch, without padding and without a mask over all of it.

Four ways with one result: torch's variable-length kernel on CUDA, our own kernel or our own function on a CPU, and
torch's SDPA segment by segment, which the others are held against. G are the key-value heads, of whose number that of
the query heads, A, is a multiple.
"""

from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from worker.training.model.ablations import Techniques
from worker.training.model.cpu_attention import PaddedSegments, own_attention
from worker.training.model.native_functions import native_attention
from worker.training.native.kernels import TrainerKernels

# Above it torch's CPU kernel is as fast: it works on blocks that stay in a core's own cache.
LONGEST_OWN = 1024
NAME = "loramill_packed"  # in transformers' registry of attention functions


class Attention(Protocol):
    """Attention over the segments that it was made for."""

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        """Give (N, A, D).

        Args:
            window: how many of the last inputs one sees, itself among them; None is all.
        """
        ...


def make_attention(
    lengths: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    techniques: Techniques,
    kernels: TrainerKernels | None = None,
) -> Attention:
    """Choose the way for these segments, and prepare it once for all blocks."""
    if kernels is not None and techniques.own_attention:
        return NativeAttention(lengths, kernels)
    if device.type == "cuda" and dtype != torch.float32:  # which the kernel does not know
        return VarlenAttention(lengths, device)
    if device.type == "cpu" and techniques.own_attention and max(lengths) <= LONGEST_OWN:
        return CpuAttention(lengths, device)
    return SdpaAttention(lengths)


class SdpaAttention:
    """torch's SDPA, one call for each run of segments of equal length."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._runs: list[tuple[int, int]] = []  # count, length
        for length in lengths:
            if self._runs and self._runs[-1][1] == length:
                self._runs[-1] = (self._runs[-1][0] + 1, length)
            else:
                self._runs.append((1, length))

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        parts, begin = [], 0
        for count, length in self._runs:
            rows = slice(begin, begin + count * length)
            query, key, value = (
                tensor[rows].unflatten(0, (count, length)).transpose(1, 2) for tensor in (query_NAD, key_NGD, value_NGD)
            )
            mask = None if window is None or window >= length else _window_mask(length, window, query.device)
            attended = nn.functional.scaled_dot_product_attention(
                query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
            )
            parts.append(attended.transpose(1, 2).flatten(0, 1))
            begin = rows.stop
        return torch.cat(parts)


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Give (length, length), true where a query sees a key."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


class CpuAttention:
    """Our own function, and torch's for windows; see ``worker.training.model.cpu_attention``."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        self._segments = PaddedSegments(lengths, device)
        self._longest = max(lengths)
        self._windowed = SdpaAttention(lengths)

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        if window is not None and window < self._longest:
            return self._windowed(query_NAD, key_NGD, value_NGD, scale, window)
        return own_attention(query_NAD, key_NGD, value_NGD, scale, self._segments)


class NativeAttention:
    """The trainer's kernel, and torch's for windows."""

    def __init__(self, lengths: tuple[int, ...], kernels: TrainerKernels) -> None:
        self._begins = cumulative_lengths(lengths, torch.device("cpu"))
        self._kernels = kernels
        self._longest = max(lengths)
        self._windowed = SdpaAttention(lengths)

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        if window is not None and window < self._longest:
            return self._windowed(query_NAD, key_NGD, value_NGD, scale, window)
        return native_attention(query_NAD, key_NGD, value_NGD, scale, self._begins, self._kernels)


class VarlenAttention:
    """torch's flash kernel for segments of any length; CUDA only."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        self._begins = cumulative_lengths(lengths, device)
        self._longest = max(lengths)

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # absent in older versions, and needed on CUDA only

        repeats = query_NAD.shape[1] // key_NGD.shape[1]
        if repeats > 1:  # the kernel's own option for this is newer than the versions that we support
            key_NGD, value_NGD = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key_NGD, value_NGD))
        attended_NAD = varlen_attn(
            query_NAD,
            key_NGD,
            value_NGD,
            self._begins,
            self._begins,
            self._longest,
            self._longest,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),  # positions that are seen before and behind one
        )
        assert isinstance(attended_NAD, Tensor)
        return attended_NAD


def cumulative_lengths(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Give where each segment begins, and at last where all end: strictly increasing, int32."""
    assert all(lengths)
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _for_transformers(
    module: nn.Module,
    query_1AND: Tensor,
    key_1GND: Tensor,
    value_1GND: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    packed: Attention,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Stand in for transformers' attention functions; ``packed`` comes through the model's forward call."""
    # A mask would mean that transformers made one, and so that segments would see each other.
    assert attention_mask is None
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query_1AND, key_1GND, value_1GND))
    return packed(query, key, value, scaling, sliding_window)[None], None


AttentionInterface.register(NAME, _for_transformers)
