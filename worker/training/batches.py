"""Tensors of one micro-batch. The only place where targets are shifted against inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.training.data import TokenizedExample

PADDING_ID = 0  # any valid id: padding stands behind all inputs, and attention only looks back


@dataclass(frozen=True)
class MicroBatch:
    """B examples, right-padded to T inputs, and the K positions whose prediction is scored.

    Position ``b * T + t`` of the flattened inputs predicts token t + 1 of example b.
    """

    input_ids_BT: Tensor  # int64
    positions_K: Tensor  # int64, into B * T
    targets_K: Tensor  # int64
    weights_K: Tensor  # float32
    is_completion_K: Tensor  # bool
    tokens: int  # of the examples, padding not counted


def collate(examples: Sequence[TokenizedExample], device: torch.device, *, completion_only: bool = False) -> MicroBatch:
    """Lay examples out for one forward pass; ``completion_only`` scores completion tokens alone, weight 1 each.

    Inputs end before the last scored token, since nothing behind it is predicted. With ids
    5 6 7 8 and weights 0 0 1 1 the inputs are 5 6 7, the scored positions 1 and 2, the targets 7 and 8.
    """
    weights = [
        example.is_completion_T.astype(np.float32) if completion_only else example.weights_T for example in examples
    ]
    scored = [np.flatnonzero(weights_T) for weights_T in weights]
    inputs = [int(indices[-1]) if len(indices) else 0 for indices in scored]
    width = max(1, *inputs)
    ids_BT = np.full((len(examples), width), PADDING_ID, dtype=np.int64)
    for row, (example, n_inputs) in enumerate(zip(examples, inputs, strict=True)):
        ids_BT[row, :n_inputs] = example.ids_T[:n_inputs]

    def flat(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).to(device)

    return MicroBatch(
        input_ids_BT=torch.from_numpy(ids_BT).to(device),
        positions_K=flat([row * width + indices - 1 for row, indices in enumerate(scored)]),
        targets_K=flat([example.ids_T[at].astype(np.int64) for example, at in zip(examples, scored, strict=True)]),
        weights_K=flat([weights_T[at] for weights_T, at in zip(weights, scored, strict=True)]),
        is_completion_K=flat([example.is_completion_T[at] for example, at in zip(examples, scored, strict=True)]),
        tokens=sum(len(example.ids_T) for example in examples),
    )
