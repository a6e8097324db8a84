"""How fast this process multiplies matrices of the model's own shapes: what the trainer's speed is held against."""

import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from worker.training.measure.flops import frozen_linear_layers
from worker.training.model.lora import LoraModel

MAX_TOKENS_CPU: Final = 512  # more rows are no faster there, and take longer
_ROUNDS: Final = 3
_LAUNCHES_CUDA: Final = 10  # one after the other without waiting, so that launching is hidden as in training
_BUDGET_S: Final = 0.04  # for one product; a round that was begun is finished


def probe_flops_per_s(model: LoraModel, tokens: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Give the operations per second of the fastest product of ``tokens`` rows with the model's frozen weights.

    Each distinct shape is multiplied as the forward pass does it and as the backward pass to the inputs does,
    in the numbers the run computes in. Draws nothing from the global random generator.
    """
    is_gpu = model.device.type == "cuda"
    rows = tokens if is_gpu else min(tokens, MAX_TOKENS_CPU)
    generator = torch.Generator(model.device).manual_seed(0)
    best = 0.0
    with torch.inference_mode():
        for left, right in _products(model, rows, generator):
            flops = 2 * left.shape[0] * left.shape[1] * right.shape[1]
            best = max(best, flops / _fastest_s(left, right, clock, is_gpu=is_gpu))
    return best


def _products(model: LoraModel, rows: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the two factors of each product: x @ W^T forward, g @ W backward."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=model.device).to(model.dtype)

    for outputs, inputs in {(layer.out_features, layer.in_features) for layer in frozen_linear_layers(model).values()}:
        weight_OI = draw(outputs, inputs)  # not the model's own, which may be packed
        for right in (weight_OI.T, weight_OI):
            yield draw(rows, right.shape[0]), right


def _fastest_s(left: Tensor, right: Tensor, clock: Callable[[], float], *, is_gpu: bool) -> float:
    launches = _LAUNCHES_CUDA if is_gpu else 1
    out = left @ right  # the first one also sets up
    fastest_s, ends_s = float("inf"), clock() + _BUDGET_S
    for _ in range(_ROUNDS):
        if is_gpu:
            torch.cuda.synchronize()
        began_s = clock()
        for _ in range(launches):
            torch.mm(left, right, out=out)
        if is_gpu:
            torch.cuda.synchronize()
        ended_s = clock()
        fastest_s = min(fastest_s, (ended_s - began_s) / launches)
        if ended_s >= ends_s:
            break
    return fastest_s
