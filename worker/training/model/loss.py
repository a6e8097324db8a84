"""The objective: weighted next-token loss over the positions that have a weight, and only those.

Shifting is done in ``worker.training.data.batches``.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.estimates.memory_plan import CHUNK_ROWS, SOFTMAX_ROWS
from worker.training.data.batches import MicroBatch
from worker.training.model.ablations import ALL, Techniques
from worker.training.native.kernels import Term, TrainerKernels
from worker.training.process.loss_sums import LossSums


class _WeightedNll(torch.autograd.Function):
    """sum_k scale_k * -log softmax(head(hidden_k))[target_k], and each position's nll and hit.

    The head is frozen, so the gradient with respect to the hidden states, scale_k * (softmax -
    one-hot) @ W, is all that backward needs. It is computed in the forward pass, chunk by chunk,
    while the chunk's logits are at hand: they are never kept and never computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_KH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_K: Tensor,
        scale_K: Tensor,
        kernels: TrainerKernels | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient_KH = torch.empty_like(hidden_KH) if ctx.needs_input_grad[0] else None
        nll_K, hit_K = torch.empty_like(scale_K), torch.empty_like(targets_K, dtype=torch.bool)
        for rows in _chunks(len(hidden_KH)):
            logits_CV = _logits(hidden_KH[rows], weight_VH, bias_V, kernels)
            asked = targets_K[rows], scale_K[rows], nll_K[rows], hit_K[rows]
            if kernels is None:
                _replace_by_gradient(logits_CV, *asked)
            else:
                kernels.softmax_gradient(logits_CV, *asked)
            if gradient_KH is None:
                continue
            if kernels is None:
                torch.mm(logits_CV, weight_VH, out=gradient_KH[rows])
            else:
                kernels.product(gradient_KH[rows], Term(logits_CV, weight_VH))
        ctx.save_for_backward(gradient_KH)
        ctx.mark_non_differentiable(nll_K, hit_K)
        return (nll_K * scale_K).sum(), nll_K, hit_K

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_KH,) = ctx.saved_tensors
        return gradient_KH * gradients[0], None, None, None, None, None


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, kernels: TrainerKernels | None) -> Tensor:
    if kernels is None:
        return nn.functional.linear(hidden_CH, weight_VH, bias_V)
    return kernels.linear(hidden_CH, weight_VH, bias_V)


def _chunks(rows: int) -> Iterator[slice]:
    """Cut rows into as few chunks as may be, about equally long: a product of a few left over would be slow."""
    count = max(1, math.ceil(rows / CHUNK_ROWS))
    for number in range(count):
        yield slice(rows * number // count, rows * (number + 1) // count)


def _replace_by_gradient(logits_CV: Tensor, targets_C: Tensor, scale_C: Tensor, nll_C: Tensor, hit_C: Tensor) -> None:
    """Write each row's nll and hit, and in place of its logits their gradient: scale * (softmax - one-hot)."""
    for begin in range(0, len(logits_CV), SOFTMAX_ROWS):
        rows = slice(begin, begin + SOFTMAX_ROWS)
        _replace_few(logits_CV[rows], targets_C[rows], scale_C[rows], nll_C[rows], hit_C[rows])


def _replace_few(logits_CV: Tensor, targets_C: Tensor, scale_C: Tensor, nll_C: Tensor, hit_C: Tensor) -> None:
    targets_C1, scale_C1 = targets_C[:, None], scale_C[:, None]
    largest_C1, target_C1 = logits_CV.amax(dim=1, keepdim=True), logits_CV.gather(1, targets_C1)
    hit_C.copy_((target_C1 >= largest_C1).squeeze(1))
    probs_CV = torch.softmax(logits_CV, dim=1, dtype=torch.float32)
    # The largest probability is at least 1 / V, so its logarithm is safe; the target's may be 0.
    log_total_C1 = largest_C1.float() - probs_CV.amax(dim=1, keepdim=True).log()
    nll_C.copy_((log_total_C1 - target_C1.float()).squeeze(1))
    logits_CV.copy_(probs_CV.mul_(scale_C1).scatter_add_(1, targets_C1, -scale_C1))


def _plain_nll(
    hidden_KH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_K: Tensor,
    scale_K: Tensor,
    _: TrainerKernels | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `_WeightedNll` does and leave the rest to autograd, which keeps the logits."""
    logits_KV = nn.functional.linear(hidden_KH, weight_VH, bias_V).float()
    nll_K = nn.functional.cross_entropy(logits_KV, targets_K, reduction="none")
    return (nll_K * scale_K).sum(), nll_K.detach(), logits_KV.argmax(dim=1) == targets_K


def weighted_loss(
    hidden_KH: Tensor,
    head: nn.Linear,
    batch: MicroBatch,
    total_weight: float,
    techniques: Techniques = ALL,
    kernels: TrainerKernels | None = None,
) -> tuple[Tensor, LossSums]:
    """Give this micro-batch's part of the step's loss, and its sums for reports; see `weighted_losses`."""
    loss, [sums] = weighted_losses(hidden_KH, head, [(batch, total_weight)], techniques, kernels)
    return loss, sums


def weighted_losses(
    hidden_KH: Tensor,
    head: nn.Linear,
    parts: Sequence[tuple[MicroBatch, float]],
    techniques: Techniques = ALL,
    kernels: TrainerKernels | None = None,
) -> tuple[Tensor, list[LossSums]]:
    """Give the sum of some micro-batches' parts of their steps' losses, and the sums of each for reports.

    The loss of a step is sum(weight * nll) / sum(weight) over all its positions. Dividing each
    micro-batch by its step's total weight makes the parts add up to it, however the step was cut. What runs of
    different adapters add to the sum has a gradient at their own positions alone.

    Args:
        hidden_KH: at the scored positions of the first, then of the next.
        parts: micro-batches, and the total weight of the step of each.
    """
    scales = [batch.weights_K / total_weight for batch, total_weight in parts]
    scale_K, targets_K = torch.cat(scales), torch.cat([batch.targets_K for batch, _ in parts])
    compute = _WeightedNll.apply if techniques.gradient_in_forward else _plain_nll
    with torch.autocast(hidden_KH.device.type, enabled=False):
        loss, nll_K, hit_K = compute(
            hidden_KH.to(head.weight.dtype), head.weight, head.bias, targets_K, scale_K, kernels
        )
    sizes = [len(own_K) for own_K in scales]
    each = zip(nll_K.double().split(sizes), hit_K.split(sizes), parts, strict=True)
    return loss, [_sums(own_nll_K, own_hit_K, batch) for own_nll_K, own_hit_K, (batch, _) in each]


def _sums(nll_K: Tensor, hit_K: Tensor, batch: MicroBatch) -> LossSums:
    has_weight_K = batch.weights_K > 0
    is_completion_K, is_prompt_K = has_weight_K & batch.is_completion_K, has_weight_K & ~batch.is_completion_K
    # one transfer from the device instead of one per number
    weighted_nll, weight, completion_nll, correct, completion_tokens, prompt_nll, prompt_tokens = torch.stack(
        [
            (nll_K * batch.weights_K.double()).sum(),
            batch.weights_K.sum(dtype=torch.float64),
            nll_K[is_completion_K].sum(),
            hit_K[is_completion_K].double().sum(),
            is_completion_K.double().sum(),
            nll_K[is_prompt_K].sum(),
            is_prompt_K.double().sum(),
        ]
    ).tolist()
    return LossSums(
        weighted_nll=weighted_nll,
        weight=weight,
        completion_nll=completion_nll,
        completion_correct=int(correct),
        completion_tokens=int(completion_tokens),
        prompt_nll=prompt_nll,
        prompt_tokens=int(prompt_tokens),
    )
