"""Recognises completions that are labels: few distinct texts, each of which comes again and again."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

MAX_LABELS: Final = 50
MIN_REPETITIONS: Final = 5  # of a label, on average, for there to be anything to say of its share
IMBALANCE: Final = 10  # times as frequent as the rarest


@dataclass(frozen=True, slots=True)
class Label:
    """A completion, without white space around it, and how many examples have it."""

    text: str
    count: int


class Labels:
    """Counts completions until there are too many distinct ones for labels."""

    def __init__(self) -> None:
        self._counts: Counter[str] | None = Counter()

    def add(self, completion: str) -> None:
        """Count one example."""
        if self._counts is not None:
            self._counts[completion.strip()] += 1
            if len(self._counts) > MAX_LABELS:
                self._counts = None

    def find(self) -> tuple[Label, ...] | None:
        """Give the labels, the most frequent first; None when the completions are none."""
        if not self._counts or self._counts.total() < MIN_REPETITIONS * len(self._counts):
            return None
        return tuple(Label(text, count) for text, count in self._counts.most_common())
