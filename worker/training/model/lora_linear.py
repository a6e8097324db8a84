"""Adapted linear layers that read the same input, as one autograd function over frozen weights.

LoRA (Hu 2021, 2106.09685): y = x W' + b + s (x A') B'. PEFT's modules keep x once per layer and once per type, add
the input's slopes of all layers one by one, and convert A and B at each use. Here x is kept once, the A of
all layers are one product, and every slope is added inside a product. Knows PEFT's modules, no architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from worker.training.model.techniques import Techniques


def project(input_NI: Tensor, layers: Sequence[nn.Module], techniques: Techniques) -> list[Tensor]:
    """Give each layer's output for the same input.

    Layers with dropout or with a magnitude (DoRA) are computed by PEFT's own modules.
    """
    own = [_own_layer(layer) for layer in layers] if techniques.own_lora else []
    known = [layer for layer in own if layer is not None]
    if not known or len(known) < len(layers):
        return [layer(input_NI) for layer in layers]
    adapters = [tensor for layer in known if layer.adapter is not None for tensor in layer.adapter]
    with torch.autocast(input_NI.device.type, enabled=False):
        outputs: tuple[Tensor, ...] = _LoraLinears.apply(input_NI, known, *adapters)  # type: ignore[no-untyped-call]
    return list(outputs)


@dataclass(frozen=True)
class _Layer:
    """One frozen layer; ``adapter`` is A (rank, inputs) and B (outputs, rank) in float32, None where there is none."""

    weight_OI: Tensor
    bias_O: Tensor | None
    adapter: tuple[Tensor, Tensor] | None
    scale: float


def _own_layer(layer: Any) -> _Layer | None:
    if isinstance(layer, PeftLinear):
        [name] = layer.active_adapters
        base: Any = layer.get_base_layer()
        plain = type(base) is nn.Linear and isinstance(layer.lora_dropout[name], nn.Identity)
        if not plain or layer.lora_variant or layer.disable_adapters or layer.merged:
            return None
        down: Any = layer.lora_A[name]
        up: Any = layer.lora_B[name]
        return _Layer(base.weight, base.bias, (down.weight, up.weight), layer.scaling[name])
    if type(layer) is nn.Linear:
        return _Layer(layer.weight, layer.bias, None, 0.0)
    return None


class _LoraLinears(torch.autograd.Function):
    """Axes: N rows, I inputs, O outputs, R ranks of all adapters together."""

    @staticmethod
    def forward(ctx: Any, input_NI: Tensor, layers: Sequence[_Layer], *adapters: Tensor) -> tuple[Tensor, ...]:
        dtype = input_NI.dtype
        downs, ups = adapters[::2], adapters[1::2]
        down_RI = _with_constants(downs, input_NI)
        narrow_NR = input_NI @ down_RI.t()
        adapted = iter(range(len(ups)))
        outputs, scaled_ups, ranks = [], [], _slices(downs)
        for layer in layers:
            if layer.adapter is None:
                outputs.append(nn.functional.linear(input_NI, layer.weight_OI, layer.bias_O))
                continue
            number = next(adapted)
            narrow_NR[:, ranks[number].stop - 1] = 1.0
            scaled_ups.append(_with_bias(ups[number] * layer.scale, layer.bias_O).to(dtype))
            output_NO = nn.functional.linear(input_NI, layer.weight_OI)
            outputs.append(output_NO.addmm_(narrow_NR[:, ranks[number]], scaled_ups[-1].t()))
        # without an adapter nobody needs the input again
        ctx.save_for_backward(input_NI if downs else None, narrow_NR, down_RI, *scaled_ups)
        ctx.layers, ctx.ranks = layers, ranks
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, narrow_NR, down_RI, *scaled_ups = ctx.saved_tensors
        input_slope = None
        narrow_slope_NR = torch.empty_like(narrow_NR)
        adapted = iter(range(len(scaled_ups)))
        found: list[Tensor] = []
        for layer, slope_NO in zip(ctx.layers, slopes, strict=True):
            if ctx.needs_input_grad[0]:
                input_slope = _add_product(input_slope, slope_NO, layer.weight_OI)
            if layer.adapter is not None:
                number = next(adapted)
                ranks = ctx.ranks[number]
                narrow_slope_NR[:, ranks] = slope_NO @ scaled_ups[number]
                # this way round the product's rows are few, which is twice as fast on a CPU
                up_slope_OR = (narrow_NR[:, ranks].t() @ slope_NO)[:-1].t().float() * layer.scale
                found += [torch.empty(0), up_slope_OR]
        if found:
            down_slope_RI = (narrow_slope_NR.t() @ input_NI).float()
            found[::2] = [down_slope_RI[ranks][:-1] for ranks in ctx.ranks]
            if input_slope is not None:
                input_slope.addmm_(narrow_slope_NR, down_RI)
        return input_slope, None, *found


def _with_constants(downs: Sequence[Tensor], input_NI: Tensor) -> Tensor:
    """Put all A behind each other, and behind each a row of zeros: its place in the narrow result holds a 1."""
    zeros_1I = input_NI.new_zeros(1, input_NI.shape[1])
    rows = [part for down_RI in downs for part in (down_RI.to(input_NI.dtype), zeros_1I)]
    return torch.cat(rows) if rows else input_NI.new_empty(0, input_NI.shape[1])


def _with_bias(up_OR: Tensor, bias_O: Tensor | None) -> Tensor:
    """Give B with the bias as one more column, which the constant 1 adds: that spares a pass over the output."""
    last_O1 = up_OR.new_zeros(len(up_OR), 1) if bias_O is None else bias_O[:, None].to(up_OR.dtype)
    return torch.cat([up_OR, last_O1], dim=1)


def _slices(downs: Sequence[Tensor]) -> list[slice]:
    found, begin = [], 0
    for down_RI in downs:
        found.append(slice(begin, begin + len(down_RI) + 1))  # and the constant
        begin = found[-1].stop
    return found


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add inside the product, which spares a pass over the sum for each layer."""
    return left @ right if total is None else total.addmm_(left, right)
