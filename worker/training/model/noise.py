"""NEFTune (Jain 2023, 2310.05914): noise on the embeddings of what is trained on.

Uniform in [-1, 1], times alpha / sqrt(T * H) for an example of T inputs. Drawn for each example
by its place in its step, so that neither packing nor the number of processes changes it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.training.data.batches import MicroBatch


def draw_noise(batch: MicroBatch, seeds: Sequence[int], *, alpha: float, width: int) -> Tensor:
    """Give (N, H) for a batch of as many segments as seeds, in float32 on the batch's device; padding has none."""
    generator = torch.Generator()  # on the CPU, so that every device draws the same
    noise_NH = torch.zeros(sum(batch.lengths), width)
    begin = 0
    for length, inputs, seed in zip(batch.lengths, batch.inputs, seeds, strict=True):
        generator.manual_seed(seed)
        scale = alpha / (inputs * width) ** 0.5
        noise_NH[begin : begin + inputs].uniform_(-scale, scale, generator=generator)
        begin += length
    return noise_NH.to(batch.input_ids_N.device)
