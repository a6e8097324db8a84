"""Tensors of one micro-batch. The only place where targets are shifted against inputs.

Axes: N inputs of all examples, one example behind the other; K scored positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from worker.training.data.examples import TokenizedExample

PADDING_ID = 0  # any valid id: padding stands behind all inputs, and attention only looks back
# Few different sizes: a CPU's matrix library keeps compiled kernels per size, and a GPU's tiles are that wide.
ROWS_MULTIPLE = 16
ONLY_ADAPTER = "default"  # PEFT's name for a model's only one


@dataclass(frozen=True)
class Owned:
    """How much of a micro-batch is one adapter's: its next inputs and scored positions."""

    adapter: str  # by PEFT's name
    inputs: int
    scored: int


@dataclass(frozen=True)
class MicroBatch:
    """Examples as segments of one text, and the positions in it whose prediction is scored.

    Segment s is the inputs from ``sum(lengths[:s])``, ``lengths[s]`` of them; no position looks at
    another segment. Position n of the inputs predicts the token that follows it in its example.
    """

    input_ids_N: Tensor  # int64
    places_N: Tensor  # int64: where in its segment an input stands, from 0
    lengths: tuple[int, ...]
    inputs: tuple[int, ...]  # of each segment's length, what is no padding
    positions_K: Tensor  # int64, into N
    targets_K: Tensor  # int64
    weights_K: Tensor  # float32
    is_completion_K: Tensor  # bool
    tokens: int  # of the examples, padding not counted
    owned: tuple[Owned, ...]  # in order


def collate(
    examples: Sequence[TokenizedExample],
    device: torch.device,
    *,
    completion_only: bool = False,
    padded: bool = False,
    all_rows: bool = False,
    adapter: str = ONLY_ADAPTER,
) -> MicroBatch:
    """Lay examples out for one forward pass.

    Inputs end before the last scored token, since nothing behind it is predicted. With ids
    5 6 7 8 and weights 0 0 1 1 the inputs are 5 6 7, the scored positions 1 and 2, the targets 7 and 8.

    Args:
        completion_only: score completion tokens alone, weight 1 each.
        padded: give every example the longest one's number of inputs; otherwise only the last is padded, a little.
        all_rows: score every input, those without a weight with weight 0.
        adapter: PEFT's name of the one that it is computed with.
    """
    weights = [
        example.is_completion_T.astype(np.float32) if completion_only else example.weights_T for example in examples
    ]
    scored = [np.flatnonzero(weights_T) for weights_T in weights]
    inputs = [max(1, int(indices[-1]) if len(indices) else 0) for indices in scored]
    if all_rows:
        scored = [np.arange(1, n_inputs + 1) for n_inputs in inputs]
    lengths = _padded(inputs, to_longest=padded)
    begins = np.cumsum([0, *lengths])
    ids_N = np.full(begins[-1], PADDING_ID, dtype=np.int64)
    for begin, example, n_inputs in zip(begins, examples, inputs, strict=False):
        ids_N[begin : begin + n_inputs] = example.ids_T[:n_inputs]

    def flat(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).to(device)

    return MicroBatch(
        input_ids_N=torch.from_numpy(ids_N).to(device),
        places_N=flat([np.arange(length) for length in lengths]),
        lengths=lengths,
        inputs=tuple(inputs),
        positions_K=flat([begin + indices - 1 for begin, indices in zip(begins, scored, strict=False)]),
        targets_K=flat([example.ids_T[at].astype(np.int64) for example, at in zip(examples, scored, strict=True)]),
        weights_K=flat([weights_T[at] for weights_T, at in zip(weights, scored, strict=True)]),
        is_completion_K=flat([example.is_completion_T[at] for example, at in zip(examples, scored, strict=True)]),
        tokens=sum(len(example.ids_T) for example in examples),
        owned=(Owned(adapter, inputs=len(ids_N), scored=sum(map(len, scored))),),
    )


def join(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Lay micro-batches of several adapters one behind the other, for one forward pass."""
    if len(batches) == 1:
        return batches[0]
    begins = np.cumsum([0, *(len(batch.input_ids_N) for batch in batches)]).tolist()

    def joined(values: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(values))

    return MicroBatch(
        input_ids_N=joined(batch.input_ids_N for batch in batches),
        places_N=joined(batch.places_N for batch in batches),
        lengths=tuple(chain.from_iterable(batch.lengths for batch in batches)),
        inputs=tuple(chain.from_iterable(batch.inputs for batch in batches)),
        positions_K=joined(begin + batch.positions_K for begin, batch in zip(begins, batches, strict=False)),
        targets_K=joined(batch.targets_K for batch in batches),
        weights_K=joined(batch.weights_K for batch in batches),
        is_completion_K=joined(batch.is_completion_K for batch in batches),
        tokens=sum(batch.tokens for batch in batches),
        owned=tuple(chain.from_iterable(batch.owned for batch in batches)),
    )


def _padded(inputs: Sequence[int], *, to_longest: bool) -> tuple[int, ...]:
    if to_longest:
        return (max(inputs),) * len(inputs)
    return (*inputs[:-1], inputs[-1] + -sum(inputs) % ROWS_MULTIPLE)
