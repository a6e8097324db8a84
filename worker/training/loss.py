"""The objective: weighted next-token loss over the positions that have a weight, and only those.

Axes: K scored positions, H hidden width, V vocabulary. Shifting is done in ``worker.training.batches``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.memory_plan import CHUNK_ROWS
from worker.training.batches import MicroBatch


@dataclass
class LossSums:
    """Sums over scored positions; whoever reports divides. All float64 on the CPU, so that order hardly matters."""

    weighted_nll: float = 0.0
    weight: float = 0.0
    completion_nll: float = 0.0
    completion_correct: int = 0
    completion_tokens: int = 0
    scored_tokens: int = 0

    def add(self, other: "LossSums") -> None:
        self.weighted_nll += other.weighted_nll
        self.weight += other.weight
        self.completion_nll += other.completion_nll
        self.completion_correct += other.completion_correct
        self.completion_tokens += other.completion_tokens
        self.scored_tokens += other.scored_tokens

    @property
    def loss(self) -> float:
        return self.weighted_nll / self.weight if self.weight else 0.0

    @property
    def completion_loss(self) -> float:
        return self.completion_nll / self.completion_tokens if self.completion_tokens else 0.0

    @property
    def token_accuracy(self) -> float:
        return self.completion_correct / self.completion_tokens if self.completion_tokens else 0.0


class _WeightedNll(torch.autograd.Function):
    """sum_k scale_k * -log softmax(head(hidden_k))[target_k], and each position's nll and hit.

    The head is frozen, so the gradient with respect to the hidden states, scale_k * (softmax -
    one-hot) @ W, is all that backward needs. It is computed in the forward pass, chunk by chunk,
    while the chunk's logits are at hand: they are never kept and never computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_KH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_K: Tensor, scale_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        gradient_KH = torch.empty_like(hidden_KH) if needs_gradient else None
        nll_K = torch.empty_like(scale_K)
        hit_K = torch.empty_like(targets_K, dtype=torch.bool)
        for begin in range(0, len(hidden_KH), CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            logits_CV = nn.functional.linear(hidden_KH[rows], weight_VH, bias_V).float()
            targets_C1 = targets_K[rows, None]
            hit_K[rows] = logits_CV.argmax(dim=1) == targets_K[rows]
            logprobs_CV = torch.log_softmax(logits_CV, dim=1)
            nll_K[rows] = -logprobs_CV.gather(1, targets_C1).squeeze(1)
            if gradient_KH is not None:
                slope_CV = logprobs_CV.exp_()
                slope_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, -1, dtype=slope_CV.dtype))
                slope_CV *= scale_K[rows, None]
                gradient_KH[rows] = slope_CV.to(weight_VH.dtype) @ weight_VH
        ctx.save_for_backward(gradient_KH)
        ctx.mark_non_differentiable(nll_K, hit_K)
        return (nll_K * scale_K).sum(), nll_K, hit_K

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient_KH,) = ctx.saved_tensors
        return gradient_KH * gradients[0], None, None, None, None


def weighted_loss(
    hidden_BTH: Tensor, head: nn.Linear, batch: MicroBatch, total_weight: float
) -> tuple[Tensor, LossSums]:
    """Give this micro-batch's part of the step's loss, and its sums for reports.

    The loss of a step is sum(weight * nll) / sum(weight) over all its positions. Dividing each
    micro-batch by the step's ``total_weight`` makes the parts add up to it, however the step was cut.
    """
    hidden_KH = hidden_BTH.flatten(0, 1).index_select(0, batch.positions_K)
    scale_K = batch.weights_K / total_weight
    with torch.autocast(hidden_KH.device.type, enabled=False):
        loss, nll_K, hit_K = _WeightedNll.apply(  # type: ignore[no-untyped-call]
            hidden_KH.to(head.weight.dtype), head.weight, head.bias, batch.targets_K, scale_K
        )
    nll_K, weights_K, is_completion_K = nll_K.double(), batch.weights_K.double(), batch.is_completion_K
    # one transfer from the device instead of one per number
    weighted_nll, weight, completion_nll, correct, completion_tokens = torch.stack(
        [
            (nll_K * weights_K).sum(),
            weights_K.sum(),
            nll_K[is_completion_K].sum(),
            hit_K[is_completion_K].double().sum(),
            is_completion_K.double().sum(),
        ]
    ).tolist()
    return loss, LossSums(weighted_nll, weight, completion_nll, int(correct), int(completion_tokens), len(nll_K))
