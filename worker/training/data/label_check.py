"""Holds a micro-batch against the examples it was made of, before anything is learnt from it.

The shift of targets against inputs is easily got wrong without any error: the loss falls all the same,
on the wrong tokens. So every micro-batch is read back here, by other means than it was written.
"""

from collections.abc import Sequence

import numpy as np

from core.errors import LabelsMismatch
from worker.training.data.batches import MicroBatch
from worker.training.data.examples import TokenizedExample


def require_labels(batch: MicroBatch, examples: Sequence[TokenizedExample], lines: Sequence[int]) -> None:
    """Make sure that each scored position predicts its own example's next token, and that none is left out.

    ``lines`` are the examples' lines in the training file. With ids 5 6 7 8 and weights 0 0 1 1 the inputs
    must begin with 5 6 7, the places 1 and 2 be scored, and their targets be 7 and 8.

    Raises:
        LabelsMismatch: a target is not the token that follows, or other positions are scored than have a weight.
    """
    inputs_N, places_N = batch.input_ids_N.cpu().numpy(), batch.places_N.cpu().numpy()
    ends = np.cumsum(batch.lengths)
    has_weight_K = batch.weights_K.cpu().numpy() > 0
    targets_K, weights_K, positions_K = (
        tensor.cpu().numpy()[has_weight_K] for tensor in (batch.targets_K, batch.weights_K, batch.positions_K)
    )
    segments_K = np.searchsorted(ends, positions_K, side="right")
    wrong = []
    for number, (example, end) in enumerate(zip(examples, ends, strict=True)):
        begin = end - batch.lengths[number]
        ours = segments_K == number
        places_K = positions_K - begin
        expected_T = np.flatnonzero(example.weights_T)
        read = int(places_K[ours].max(initial=-1)) + 1  # inputs that a scored position can look at
        is_right = (
            np.array_equal(places_K[ours] + 1, expected_T)
            and np.array_equal(weights_K[ours], example.weights_T[expected_T])
            and np.array_equal(targets_K[ours], example.ids_T[expected_T])
            and np.array_equal(inputs_N[begin : begin + read], example.ids_T[:read])
            and np.array_equal(places_N[begin:end], np.arange(end - begin))
        )
        if not is_right:
            wrong.append(int(lines[number]))
    if wrong:
        raise LabelsMismatch(
            "labels differ from the input ids where they are not masked, so the model would learn other tokens than "
            "those shown; this is a defect of the trainer, please report it with the job's first lines",
            tuple(wrong),
        )
