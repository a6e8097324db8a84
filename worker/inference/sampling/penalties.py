"""Makes tokens that a text has already less likely; knows one request's tokens and nothing of how one is chosen.

Axis letters: V vocabulary, T distinct tokens of a request, or of its completion where that is said.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from core.serving.generation import SamplingParams


class Penalties:
    """The penalties of one request, over its prompt's and its completion's tokens."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._repetition = params.repetition_penalty
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        self._device = device
        self._seen = set(prompt_ids)
        self._seen_T: Tensor | None = None  # None: to be made anew
        self._counts: Counter[int] = Counter()

    @staticmethod
    def are_asked(params: SamplingParams) -> bool:
        return (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) != (1, 0, 0)

    def accept(self, token_id: int) -> None:
        """Count a token of the completion."""
        self._counts[token_id] += 1
        if token_id not in self._seen:
            self._seen.add(token_id)
            self._seen_T = None

    def apply(self, logits_V: Tensor) -> None:
        """Change the logits in place.

        A seen token's logit is divided by the repetition penalty where it is positive and multiplied where it is not
        (CTRL, 1909.05858, as transformers' RepetitionPenaltyLogitsProcessor). Then, as in OpenAI's API reference, a
        token that stands in the completion c times loses c times the frequency penalty, and the presence penalty once.
        """
        if self._repetition != 1 and self._seen:
            if self._seen_T is None:
                self._seen_T = torch.tensor(list(self._seen), device=self._device)
            logits_T = logits_V[self._seen_T]
            logits_V[self._seen_T] = torch.where(logits_T > 0, logits_T / self._repetition, logits_T * self._repetition)
        if self._counts and (self._frequency or self._presence):
            ids_T = torch.tensor(list(self._counts), device=self._device)  # of the completion
            counts_T = torch.tensor(list(self._counts.values()), device=self._device)
            logits_V[ids_T] -= counts_T * self._frequency + self._presence
