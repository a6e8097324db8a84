"""Compares each kernel with torch's own gradients on small shapes, before the trainer relies on a library just built.

A compiler's mistake, or a library of another machine, must end here and not in somebody's adapter.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm, scaled_dot_product_attention, silu

from worker.training.native.kernels import OwnTerm, Term, TrainerKernels

TOLERANCE: Final = 1e-5  # of the largest number: sums differ by their order
ROWS, WIDTH = 37, 83  # neither is a multiple of what the CPU reads at once
EPSILON = 1e-5

_Pairs = Sequence[tuple[Tensor, Tensor]]  # what was computed, what is right


def find_difference(kernels: TrainerKernels) -> str | None:
    """Give the name of the first kernel that computes something else than torch; None if none does."""
    checks: dict[str, Callable[[TrainerKernels, torch.Generator], _Pairs]] = {
        "product": _product,
        "rms_norm": _rms_norm,
        "gated_silu": _gated_silu,
        "rotate": _rotate,
        "attention": _attention,
        "softmax_gradient": _softmax_gradient,
    }
    generator = torch.Generator().manual_seed(0)  # the run's own numbers stay as they are
    with torch.enable_grad():
        for name, check in checks.items():
            if not all(_near(got, wanted) for got, wanted in check(kernels, generator)):
                return name
    return None


def _near(got: Tensor, wanted: Tensor) -> bool:
    """Tell whether all differ by less; what is no number differs."""
    return got.shape == wanted.shape and bool((got - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).requires_grad_()


def _product(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    """Two terms of unequal depth, the first deeper than a block; factors that lie turned round; rows of their own."""
    left, right = _draw(generator, ROWS, 700).detach(), _draw(generator, WIDTH, 700).detach()
    low, high = _draw(generator, ROWS, 5).detach(), _draw(generator, 5, WIDTH).detach()
    got = kernels.product(left.new_empty(ROWS, WIDTH), Term(left, right.t()), Term(low, high, 0.5))
    turned = kernels.product(left.new_empty(700, WIDTH).t(), Term(high.t(), left[:5]))
    own = [OwnTerm(slice(0, 8), Term(low[:8], high, 0.5)), OwnTerm(slice(8, 10), None)]
    own.append(OwnTerm(slice(10, ROWS), Term(low[10:, :3], high[:3])))
    stretched = kernels.product(left.new_empty(ROWS, WIDTH), Term(left, right.t()), own=own)
    wanted = left @ right.t()
    added = torch.cat([0.5 * low[:8] @ high, torch.zeros(2, WIDTH), low[10:, :3] @ high[:3]])
    return [(got, wanted + 0.5 * low @ high), (turned, high.t() @ left[:5]), (stretched, wanted + added)]


def _rms_norm(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    states, weight, grad = _draw(generator, ROWS, WIDTH), _draw(generator, WIDTH), _draw(generator, ROWS, WIDTH)
    normed, scales = kernels.rms_norm(states, weight, EPSILON)
    wanted = rms_norm(states, (WIDTH,), weight, EPSILON)
    (wanted_grad,) = torch.autograd.grad(wanted, states, grad)
    return [(normed, wanted), (kernels.rms_norm_back(grad, states, weight, scales), wanted_grad)]


def _gated_silu(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    gate, up, grad = (_draw(generator, ROWS, WIDTH) for _ in range(3))
    wanted = silu(gate) * up
    wanted_grads = torch.autograd.grad(wanted, (gate, up), grad)
    pairs = zip(kernels.gated_silu_back(grad, gate, up), wanted_grads, strict=True)
    return [(kernels.gated_silu(gate, up), wanted), *pairs]


def _rotate(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    """Heads of which a part is rotated, there and back."""
    rotary = 14
    states, angles = _draw(generator, ROWS, 3, 20), _draw(generator, ROWS, rotary // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([-states[..., rotary // 2 : rotary], states[..., : rotary // 2]], dim=2)
    rotated = states[..., :rotary] * cos[:, None] + turned * sin[:, None]
    got = kernels.rotate(states, cos, sin, back=False)
    wanted = torch.cat([rotated, states[..., rotary:]], dim=2)
    return [(got, wanted), (kernels.rotate(got, cos, sin, back=True), states)]


def _attention(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    """Four query heads on two key-value heads, in a short segment and one longer than a run of queries."""
    lengths, width, scale = (5, 130), 20, 0.3
    query, grad = (_draw(generator, sum(lengths), 4, width) for _ in range(2))
    key, value = (_draw(generator, sum(lengths), 2, width) for _ in range(2))
    begins = torch.tensor([0, 5, 135], dtype=torch.int32)
    segments = [[part.transpose(0, 1) for part in of.split(lengths)] for of in (query, key, value)]
    parts = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True).transpose(0, 1)
        for q, k, v in zip(*segments, strict=True)
    ]
    wanted = torch.cat(parts)
    wanted_grads = torch.autograd.grad(wanted, (query, key, value), grad)
    attended = kernels.attention(query, key, value, begins, scale)
    grads = kernels.attention_back(grad, attended, (query, key, value), begins, scale)
    return [(attended[0], wanted), *zip(grads, wanted_grads, strict=True)]


def _softmax_gradient(kernels: TrainerKernels, generator: torch.Generator) -> _Pairs:
    """Rows of which one has its target as the largest logit."""
    logits, scale = _draw(generator, ROWS, WIDTH), _draw(generator, ROWS).detach().abs()
    targets = torch.arange(ROWS)
    targets[0] = logits[0].argmax()
    nll = cross_entropy(logits, targets, reduction="none")
    (wanted_grad,) = torch.autograd.grad((nll * scale).sum(), logits)
    got, got_nll, got_hit = logits.detach().clone(), torch.empty(ROWS), torch.empty(ROWS, dtype=torch.bool)
    kernels.softmax_gradient(got, targets, scale, got_nll, got_hit)
    hit = logits.argmax(dim=1) == targets
    return [(got, wanted_grad), (got_nll, nll), (got_hit.float(), hit.float())]
