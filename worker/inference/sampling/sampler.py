"""Samples each row's next token from its logits, for a whole batch at once; a row's choice is its own matter.

Knows nothing of models or requests' texts. Axis letters: B rows, T tokens of one prompt, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from core.serving.generation import MAX_TOP_LOGPROBS, SamplingParams
from core.text.tokenizer import TextTokenizer
from worker.inference.sampling.constraints import ConstraintState
from worker.inference.sampling.penalties import Penalties

# Sorting a whole vocabulary for top_p costs a multiple of a selection of its head. The head nearly
# always holds the mass; where it does not, everything is sorted.
NUCLEUS_HEAD: Final = 1024

LEAST_TEMPERATURE: Final = 1e-30  # what is smaller does the same, and would become 0 in float32
SCORED_ROWS: Final = 128  # of a prompt at once: bounds the memory beside the logits themselves


@dataclass(frozen=True)
class Choice:
    """A token with natural logs of the raw distribution, before penalties and temperature.

    ``top`` are ids and logs of the likeliest tokens, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class RowSampler:
    """One request's way of choosing tokens, with its own random numbers, counts and constraint.

    A token is drawn by an exponential race: with one exponential variate e per vocabulary entry, the
    winner of argmax p/e is distributed as p. A request thus draws the same variates in the same order
    whatever rows share its batch, and noise in the logits does not move a variate to another token.

    Attributes:
        is_greedy: no random numbers are used.
        is_plain: the likeliest token by the raw logits is taken.
        top: how many of the likeliest tokens are given with each choice.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        tokenizer: TextTokenizer,
        device: torch.device,
        constraint: ConstraintState | None,
    ) -> None:
        self._params = params
        self.top = params.top_logprobs
        self.is_greedy = params.temperature == 0 or params.top_k == 1
        self._penalties = Penalties(params, prompt_ids, device) if Penalties.are_asked(params) else None
        self._bias_ids = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=device)
        self._bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)
        self._constraint = constraint
        self._end_ids = {*params.stop_token_ids, *(() if params.ignore_end else tokenizer.end_ids)}
        self.is_plain = self.is_greedy and not (self._penalties or params.logit_bias or constraint)
        if not self.is_greedy:
            self._generator = torch.Generator(device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)

    @property
    def is_complete(self) -> bool:
        """Whether a constraint leaves nothing but the completion's end."""
        return self._constraint is not None and self._constraint.is_complete

    def accept(self, token_id: int) -> None:
        """Know that a token stands in the completion now; every token is to be accepted before the next is drawn.

        Raises:
            GenerationFailed: the constraint cannot be followed any further.
        """
        if self._penalties is not None:
            self._penalties.accept(token_id)
        if self._constraint is not None and token_id not in self._end_ids:
            self._constraint.accept(token_id)

    def draw(self, logits_V: Tensor) -> Tensor:
        """Give the next token's id, a scalar on the logits' device; ``logits_V`` stays as it is."""
        logits_V = self._changed(logits_V)
        if self.is_greedy:
            return _likeliest(logits_V[None])[0]
        # the maximum is taken off first so that a tiny temperature cannot overflow
        scaled = (logits_V - logits_V.max()) / max(self._params.temperature, LEAST_TEMPERATURE)
        # -log of uniform numbers is exponential; in float64, as the winners' lie where float32 has few numbers left
        uniform = torch.rand(scaled.shape, dtype=torch.float64, device=scaled.device, generator=self._generator)
        candidates = self._candidates(scaled)
        if candidates is not None:
            scaled, uniform = scaled[candidates], uniform[candidates]
        race = scaled - uniform.log_().neg_().log_()
        if self._params.min_p > 0:
            race.masked_fill_(scaled < math.log(self._params.min_p), -torch.inf)  # the likeliest is at 0
        winner = race.argmax()
        return winner if candidates is None else candidates[winner]

    def _changed(self, logits_V: Tensor) -> Tensor:
        if not (self._penalties or self._params.logit_bias or self._constraint):
            return logits_V
        logits_V = logits_V.clone()
        if self._penalties is not None:
            self._penalties.apply(logits_V)
        logits_V[self._bias_ids] += self._bias
        if self._constraint is not None:
            self._constraint.forbid(logits_V, tuple(self._end_ids))
        return logits_V

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
            return _wide_nucleus(scaled_V, top_p, log_total)
        return ids[_nucleus(values, top_p, log_total)]


def sample(samplers: Sequence[RowSampler], logits_BV: Tensor) -> list[Choice]:
    """Sample a token for each row of finite float32 logits; nothing counts as accepted until `RowSampler.accept`."""
    if any(sampler.is_plain for sampler in samplers):
        ids_B = _likeliest(logits_BV)
    else:
        ids_B = torch.empty(len(samplers), dtype=torch.int64, device=logits_BV.device)
    for row, sampler in enumerate(samplers):
        if not sampler.is_plain:
            ids_B[row] = sampler.draw(logits_BV[row])
    return _with_logprobs(logits_BV, ids_B, [sampler.top for sampler in samplers])


def score_prompt(logits_TV: Tensor, next_ids: Sequence[int], top: int) -> list[Choice]:
    """Give for each token of a prompt the logprob of the one that follows it, and the ``top`` likeliest ones."""
    ids_T = torch.tensor(next_ids, dtype=torch.int64, device=logits_TV.device)
    return [
        choice
        for logits, ids in zip(logits_TV.split(SCORED_ROWS), ids_T.split(SCORED_ROWS), strict=True)
        for choice in _with_logprobs(logits, ids, [top] * len(ids))
    ]


def _likeliest(logits_BV: Tensor) -> Tensor:
    if logits_BV.device.type == "cpu":  # numpy's argmax is vectorised: a tenth of the time
        return torch.from_numpy(logits_BV.numpy().argmax(1))
    return logits_BV.argmax(1)


def _with_logprobs(logits_BV: Tensor, ids_B: Tensor, tops: Sequence[int]) -> list[Choice]:
    """Give the rows' tokens with their logprobs, and for each row as many of the likeliest as ``tops`` says."""
    # on a CPU log_softmax takes half as long as logsumexp, and each row's result is independent of the others
    logprobs_BV = logits_BV.log_softmax(1)
    logprobs = logprobs_BV.gather(1, ids_B[:, None])[:, 0].tolist()
    likeliest: list[tuple[tuple[int, float], ...]] = [()] * len(tops)
    asking = [row for row, top in enumerate(tops) if top]
    if asking:
        # as many for all as any may ask for, since which of two equals comes first can depend on how many there are
        values, ids = logprobs_BV[asking].topk(min(MAX_TOP_LOGPROBS, logits_BV.shape[1]))
        for row, row_ids, row_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            likeliest[row] = tuple(zip(row_ids, row_values, strict=True))[: tops[row]]
    return [Choice(*choice) for choice in zip(ids_B.tolist(), logprobs, likeliest, strict=True)]


def _nucleus(values: Tensor, top_p: float, log_total: Tensor) -> Tensor:
    """Mark the fewest of the descending logits that hold ``top_p`` of the mass exp(log_total).

    Probabilities .5 .3 .2 and top_p .6 give True True False: the first alone does not hold .6.
    """
    probabilities = (values - log_total).exp()
    before = probabilities.cumsum(0) - probabilities
    inside = before < top_p
    inside[0] = True  # whatever rounding does, one token stays
    return inside


def _wide_nucleus(logits_V: Tensor, top_p: float, log_total: Tensor) -> Tensor:
    """Give the ids of the nucleus; of equals at its border, the first."""
    if logits_V.device.type == "cpu":  # numpy sorts values alone in a quarter of the time that torch takes with ids
        values = -torch.from_numpy(np.sort(-logits_V.numpy()))
    else:
        values = logits_V.sort(descending=True).values
    size = int(_nucleus(values, top_p, log_total).sum())
    above = (logits_V > values[size - 1]).nonzero()[:, 0]
    border = (logits_V == values[size - 1]).nonzero()[:, 0]
    return torch.cat([above, border[: size - len(above)]])
