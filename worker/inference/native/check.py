"""Compares each kernel with what torch computes, on small shapes, before the engine relies on a library just built.

A compiler's mistake, or a library of another machine, must end here and not in somebody's answer.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm, scaled_dot_product_attention, silu

from worker.inference.native.kernels import Kernels
from worker.inference.native.panels import Panels, group_of, quantize
from worker.inference.native.rows import AttentionRows, LoraRows, LoraSite

# Of the largest number: float32 sums differ by their order; bfloat16 keeps 8 bits, and may be rounded twice here.
TOLERANCES: Final = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
KINDS: Final = {  # of weights that rows are multiplied with
    torch.bfloat16: (torch.bfloat16, torch.int8),
    torch.float32: (torch.bfloat16, torch.float16, torch.int8),
}
ROWS, WIDTH = 3, 83  # neither is a multiple of what the CPU reads at once


def find_difference(kernels: Kernels) -> str | None:
    """Give the name of the first kernel that computes something else than torch, and its dtype; None if none does."""
    checks: dict[str, Callable[[Kernels, Tensor], tuple[Tensor, Tensor]]] = {
        "rms_norm": _rms_norm,
        "layer_norm": _layer_norm,
        "gated_silu": _gated_silu,
        "gelu_tanh": _gelu_tanh,
        "decode_attention": _decode_attention,
        "chunk_attention": _chunk_attention,
        "lora": _lora,
    }
    numbers = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for dtype, tolerance in TOLERANCES.items():
            for name, check in checks.items():
                got, wanted = (tensor.float() for tensor in check(kernels, numbers.to(dtype)))
                if not _near(got, wanted, tolerance):
                    return f"{name} in {dtype}"
        for dtype in kernels.multiplied:
            for kind in KINDS[dtype]:
                if not _near(*_product(kernels, numbers, dtype, kind), TOLERANCES[dtype]):
                    return f"product of {dtype} with {kind}"
    return None


def _near(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Tell whether all differ by less; what is no number differs."""
    return bool((got - wanted).abs().max() <= tolerance * wanted.abs().max())


def _take(numbers: Tensor, *shape: int) -> Tensor:
    """Copy the first numbers, in this shape."""
    return numbers[: torch.Size(shape).numel()].reshape(shape).clone()


def _rms_norm(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = _take(numbers, ROWS, WIDTH), _take(numbers.flip(0), WIDTH)
    kernels.rms_norm(out := torch.empty_like(x), x, weight, 1e-5)
    return out, rms_norm(x.float(), (WIDTH,), weight.float(), 1e-5)


def _layer_norm(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    x, weight, bias = _take(numbers, ROWS, WIDTH), _take(numbers.flip(0), WIDTH), _take(numbers, WIDTH)
    kernels.layer_norm(out := torch.empty_like(x), x, weight, bias, 1e-5)
    return out, layer_norm(x.float(), (WIDTH,), weight.float(), bias.float(), 1e-5)


def _gated_silu(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    gate_up = _take(numbers, ROWS, 2 * WIDTH)
    kernels.gated_silu(out := gate_up.new_empty(ROWS, WIDTH), gate_up)
    gate, up = gate_up.float().chunk(2, dim=1)
    return out, silu(gate) * up


def _gelu_tanh(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    x = _take(numbers, ROWS, WIDTH)
    kernels.gelu_tanh(out := torch.empty_like(x), x)
    return out, gelu(x.float(), approximate="tanh")


def _decode_attention(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """One row of three query heads on one kv head of 20, unrotated, behind 40 cached tokens."""
    cached, head_dim = 40, 20
    keys, values = _take(numbers, 1, 1, head_dim, 48), _take(numbers.flip(0), 1, 1, 48, head_dim)
    qkv = _take(numbers, 1, 5 * head_dim)
    slots, lengths = torch.tensor([0], dtype=torch.int32), torch.tensor([cached], dtype=torch.int32)
    rows = AttentionRows(torch.ones(1, head_dim), torch.zeros(1, head_dim), slots, lengths)
    kernels.decode_attention(out := qkv.new_empty(1, 3 * head_dim), qkv, keys, values, rows, head_dim**-0.5)
    q, k, v = qkv.float().view(1, 5, 1, head_dim).split([3, 1, 1], dim=1)
    all_keys = torch.cat([keys[..., :cached].transpose(2, 3).float(), k], dim=2)
    all_values = torch.cat([values[:, :, :cached].float(), v], dim=2)
    return out, scaled_dot_product_attention(q, all_keys, all_values, enable_gqa=True).view(1, -1)


def _chunk_attention(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Three tokens of three query heads on one kv head of 20, unrotated, behind 37 cached tokens."""
    past, head_dim = 37, 20
    keys, values = _take(numbers, 1, head_dim, 48), _take(numbers.flip(0), 1, 48, head_dim)
    qkv, unrotated = _take(numbers, ROWS, 5 * head_dim), (torch.ones(ROWS, head_dim), torch.zeros(ROWS, head_dim))
    out = qkv.new_empty(ROWS, 3 * head_dim)
    kernels.chunk_attention(out, qkv, keys, values, *unrotated, past, head_dim**-0.5)
    q, k, v = qkv.float().view(ROWS, 5, head_dim).transpose(0, 1).split([3, 1, 1])
    all_keys = torch.cat([keys[..., :past].transpose(1, 2).float(), k], dim=1)
    all_values = torch.cat([values[:, :past].float(), v], dim=1)
    seen = torch.ones(ROWS, past + ROWS, dtype=torch.bool).tril(past)
    attended = scaled_dot_product_attention(q[None], all_keys[None], all_values[None], seen, enable_gqa=True)
    return out, attended[0].transpose(0, 1).reshape(ROWS, -1)


def _lora(kernels: Kernels, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Two rows of one adapter of rank 5, one of none."""
    rank, outputs = 5, 37
    x, y = _take(numbers, ROWS, WIDTH), _take(numbers.flip(0), ROWS, outputs)
    a, b = _take(numbers[300:], 1, rank + 2, WIDTH), _take(numbers[900:], rank + 2, outputs)
    wanted = y.float()
    wanted[:2] += (x[:2].float() @ a[0, 2:].float().T).to(x.dtype).float() @ b[2:].float()
    begins, ranks = torch.full((ROWS,), 2, dtype=torch.int32), torch.tensor([[rank, rank, 0]], dtype=torch.int32)
    kernels.lora(y, x, LoraSite(a, [b], [0]), LoraRows(begins, ranks))
    return y, wanted


def _product(kernels: Kernels, numbers: Tensor, dtype: torch.dtype, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sixteen rows, more than one run of them, two groups of inputs, a panel that is not full, all that is added."""
    rows, inputs, outputs = 16, 150, 37
    x, added = _take(numbers, rows, inputs).to(dtype), _take(numbers.flip(0), rows, outputs).to(dtype)
    weight, bias = _take(numbers[700:], outputs, inputs), _take(numbers[500:], outputs).to(dtype)
    stored, scale = quantize(weight, group_of(inputs, dtype)) if kind == torch.int8 else (weight.to(kind), None)
    panels = Panels(stored, bias, scale, dtype=dtype, width=kernels.panel_width)
    kernels.product(out := torch.empty_like(added), x, panels, added)
    weight_OI = stored.float() if scale is None else panels.weight().float()
    return out.float(), x.float() @ weight_OI.T + bias.float() + added.float()
