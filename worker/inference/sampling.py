"""Chooses a row's next token from its logits; knows nothing of the rows beside it.

Axis letter V: vocabulary.
"""

import math

import torch
from torch import Tensor

from core.generation import SamplingParams

# Sorting a whole vocabulary for top_p costs many times a selection of its head. The head nearly
# always holds the mass; where it does not, everything is sorted.
NUCLEUS_HEAD = 1024


class Sampler:
    """One request's way of choosing tokens, with its own random numbers.

    A token is drawn by an exponential race: with one exponential variate e per vocabulary entry, the
    winner of argmax p/e is distributed as p. A request thus draws the same variates in the same order
    whatever rows share its batch.
    """

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._params = params
        self._generator = torch.Generator(device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def choose(self, logits_V: Tensor) -> int:
        """Choose from float32 logits, which must be finite."""
        if self._params.temperature == 0:
            return int(logits_V.argmax())
        # the maximum is taken off first so that a tiny temperature cannot overflow
        scaled_V = (logits_V - logits_V.max()) / self._params.temperature
        race_V = scaled_V - torch.empty_like(scaled_V).exponential_(generator=self._generator).log()
        candidates = self._candidates(scaled_V)
        if candidates is None:
            return int(race_V.argmax())
        return int(candidates[race_V[candidates].argmax()])

    def _candidates(self, scaled_V: Tensor) -> Tensor | None:
        """Give the ids that top_k and then top_p leave, or None for all of them."""
        top_k, top_p = self._params.top_k, self._params.top_p
        size = scaled_V.shape[0]
        if top_k is not None and top_k < size:
            values, ids = scaled_V.topk(top_k)
            return ids if top_p == 1 else ids[_nucleus(values, top_p, values.logsumexp(0))]
        if top_p == 1:
            return None
        log_total = scaled_V.logsumexp(0)
        values, ids = scaled_V.topk(min(NUCLEUS_HEAD, size))
        if values.logsumexp(0) < log_total + math.log(top_p):
            values, ids = scaled_V.sort(descending=True)
        return ids[_nucleus(values, top_p, log_total)]


def _nucleus(values: Tensor, top_p: float, log_total: Tensor) -> Tensor:
    """Mark the fewest of the descending logits that hold ``top_p`` of the mass exp(log_total).

    Probabilities .5 .3 .2 and top_p .6 give True True False: the first alone does not hold .6.
    """
    probabilities = (values - log_total).exp()
    before = probabilities.cumsum(0) - probabilities
    inside = before < top_p
    inside[0] = True  # whatever rounding does, one token stays
    return inside
