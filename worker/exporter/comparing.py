"""Holds what was written against the adapter: numbers against their own rounding, logits against the adapter's.

What is too much is ``core.exports.report``'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from core.errors import ExportDiffers
from core.exports.report import PromptReport, TensorReport
from core.exports.spec import Rounding
from worker.exporter.oracle import Reading, read_logits

# Two ways to add the same products in float32 differ by less, in shares of a tensor's largest number.
NOISE: Final = 2e-6
_BLOCK: Final = 32  # of q8_0
_TINY: Final = torch.finfo(torch.float32).tiny  # the step of a tensor of zeros, which has none


def compare_prompts(readings: Sequence[Reading], model: Any) -> tuple[PromptReport, ...]:
    """Feed another model what the adapter was fed."""
    return tuple(_compare_prompt(reading, read_logits(model, reading.ids)) for reading in readings)


def _compare_prompt(reading: Reading, other_TV: Tensor) -> PromptReport:
    own_TV = reading.logits_TV
    if other_TV.shape != own_TV.shape:
        raise ExportDiffers(f"the export gives {other_TV.shape[-1]} logits a token, the adapter {own_TV.shape[-1]}")
    is_same_T = own_TV.argmax(dim=1) == other_TV.argmax(dim=1)
    own_log_TV, other_log_TV = own_TV.log_softmax(dim=1), other_TV.log_softmax(dim=1)
    divergence_T = (own_log_TV.exp() * (own_log_TV - other_log_TV)).sum(dim=1)
    spread_T1 = own_TV.std(dim=1, keepdim=True)
    # the token at a place is predicted at the one before
    begin = len(reading.prompt.ids) - 1
    agrees = is_same_T[begin : begin + len(reading.continued)].tolist()
    return PromptReport(
        part=reading.prompt.part,
        tokens=len(reading.ids),
        other_tokens=int((~is_same_T).sum()),
        continued=len(reading.continued),
        same_continuation=agrees.index(False) if False in agrees else len(agrees),
        logit_difference=float(((other_TV - own_TV).abs() / spread_T1).max()),
        divergence_nats=float(divergence_T.mean().clamp(min=0)),
    )


class TensorComparison:
    """Takes tensors one by one, and gives what was found of all.

    Args:
        adapted: the tensors that the adapter changes.
    """

    def __init__(self, adapted: frozenset[str]) -> None:
        self._adapted = adapted
        self._seen: set[str] = set()
        self._step_error = self._other_share = 0.0
        self._kept = self._change = 0.0

    def add(self, name: str, written: Tensor, expected: Tensor, base: Tensor, rounding: Rounding) -> None:
        """Compare a tensor, all in float32, the written one as it was read back.

        Raises:
            ExportDiffers: it has another shape.
        """
        if written.shape != expected.shape:
            raise ExportDiffers(f"tensor {name} was written in the shape {list(written.shape)}")
        self._seen.add(name)
        rounded = _rounded(expected, rounding)
        noise = NOISE * float(expected.abs().max())
        distance = (written - rounded.values).abs()
        self._step_error = _worst(self._step_error, (distance / (rounded.step + noise).clamp(min=_TINY)).max())
        self._other_share = _worst(self._other_share, (~(distance <= noise)).float().mean())
        if name in self._adapted:
            change = (expected - base).double()
            self._kept += float(((written - base).double() * change).sum())
            self._change += float((change * change).sum())

    def report(self) -> TensorReport:
        """Give what was found.

        Raises:
            ExportDiffers: a tensor that the adapter changes was not among them.
        """
        missing = sorted(self._adapted - self._seen)
        if missing:
            raise ExportDiffers(f"tensor {missing[0]}, which the adapter changes, was not written")
        return TensorReport(
            compared=len(self._seen),
            adapted=len(self._adapted),
            step_error=self._step_error,
            other_share=self._other_share,
            kept_change=self._kept / self._change if self._change else None,
        )


def _worst(known: float, found: Tensor) -> float:
    """Give the larger one; what is no number is the largest."""
    value = float(found)
    return value if value != value else max(known, value)


@dataclass(frozen=True)
class _Rounded:
    values: Tensor
    step: Tensor  # between neighbouring values, at each


def _rounded(exact: Tensor, rounding: Rounding) -> _Rounded:
    """Round once, to the nearest."""
    match rounding:
        case "none":
            return _Rounded(exact, torch.zeros_like(exact))
        case "f16":
            return _Rounded(exact.half().float(), _step_of(exact, mantissa_bits=10, least=2.0**-24))
        case "bf16":
            return _Rounded(exact.bfloat16().float(), _step_of(exact, mantissa_bits=7, least=2.0**-133))
        case "q8_0":
            blocks = exact.reshape(-1, _BLOCK)
            step = blocks.abs().amax(dim=1, keepdim=True) / 127
            inverse = torch.where(step == 0, step, 1 / step)
            scaled = blocks * inverse
            whole = torch.sign(scaled) * torch.floor(scaled.abs() + 0.5)
            values = (whole * step.half().float()).reshape(exact.shape)
            return _Rounded(values, step.expand_as(blocks).reshape(exact.shape))


def _step_of(exact: Tensor, *, mantissa_bits: int, least: float) -> Tensor:
    _, exponent = torch.frexp(exact)
    return torch.ldexp(torch.ones_like(exact), exponent - 1 - mantissa_bits).clamp(min=least)
