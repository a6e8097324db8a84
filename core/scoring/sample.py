"""What one held-out row gives to be scored: the model's answer, the reference, and what the model said of the latter.

Knows no tokenizer and no model: whoever asks one fills this in.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from core.values import Frozen

Part = Literal["answer", "reference", "labels", "stopped", "logprobs", "most_likely"]

Logprob = Annotated[float, Field(le=0, allow_inf_nan=True)]


class Sample(Frozen):
    """One row's answer and what it is held against. None: that was not asked, or there is no such thing.

    Attributes:
        answer: what the model wrote, without its closing token.
        reference: the held-out completion.
        labels: the distinct completions of the whole data set, where they are few; of every row alike.
        stopped: whether the model closed its answer itself, before the limit of new tokens.
        logprobs: natural logarithm of the probability of each token of the reference, the closing one included.
        most_likely: for each of these tokens, whether the model held it the most likely one.
    """

    answer: str | None = None
    reference: str | None = None
    labels: frozenset[str] | None = None
    stopped: bool | None = None
    logprobs: tuple[Logprob, ...] | None = None
    most_likely: tuple[bool, ...] | None = None

    def lacks(self, needs: frozenset[Part]) -> bool:
        """Tell whether something that a metric needs is not there."""
        there: Mapping[str, object] = self.__dict__
        return any(there[part] is None for part in needs)
