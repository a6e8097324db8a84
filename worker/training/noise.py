"""NEFTune (Jain 2023, 2310.05914): noise on the embeddings of what is trained on.

Uniform in [-1, 1], times alpha / sqrt(L * H) for an example of L inputs and width H. Drawn for each example
by its place in its step, so that neither packing nor the number of processes changes it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.training.batches import MicroBatch


def draw_noise(batch: MicroBatch, seeds: Sequence[int], *, alpha: float, width: int) -> Tensor:
    """Give (N, H) for a batch of as many segments as seeds, in float32 on the batch's device."""
    generator = torch.Generator()  # on the CPU, so that every device draws the same
    parts = []
    for length, seed in zip(batch.lengths, seeds, strict=True):
        generator.manual_seed(seed)
        scale = alpha / (length * width) ** 0.5
        parts.append(torch.empty(length, width).uniform_(-scale, scale, generator=generator))
    return torch.cat(parts).to(batch.input_ids_N.device)
