"""The numbers of a file of examples: how long they are, and how many tokens are given, written and trained on."""

from collections import Counter
from dataclasses import dataclass

from core.text.lint.labels import Label, Labels
from core.text.lint.lengths import Lengths, Percentiles, quantile
from core.text.rendering import RenderedExample


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the examples that would be trained on, as they are then: prompts may be cut to fit.

    Attributes:
        completion_prompt_ratio: completion tokens for each prompt token; None without prompt tokens.
        padding_tokens: what padding every example to ``max_length`` would add. Loramill does not pad.
    """

    examples: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    completion_prompt_ratio: float | None
    padding_tokens: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the training file holds.

    Attributes:
        examples: those that can be rendered; the percentiles and the median are theirs, whole, before any is
            left out or cut to fit. Without one, those are None.
        completion_prompt_ratio: the median of each example's completion tokens for a prompt token, to 3 digits.
        labels: where the completions are few distinct texts, those; else None.
    """

    examples: int
    tokens: Percentiles | None
    prompt_tokens: Percentiles | None
    completion_tokens: Percentiles | None
    completion_prompt_ratio: float | None
    trained: Totals
    labels: tuple[Label, ...] | None


class StatisticsCounter:
    """Gathers the numbers, one example at a time."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self.lengths = Lengths()
        self.labels = Labels()
        self._prompt_lengths = Lengths()
        self._completion_lengths = Lengths()
        self._ratios: Counter[float] = Counter()
        self.examples = 0  # that can be rendered
        self.trained = 0  # of these, those that would be trained on
        self._prompt_tokens = self._completion_tokens = self._trained_tokens = 0

    def add(self, rendered: RenderedExample, completion: str) -> None:
        """Count an example as it was rendered; ``completion`` is its last answer's text."""
        self.examples += 1
        written = rendered.completion_tokens
        total = len(rendered.input_ids)
        given = total - written
        self.lengths.add(total, rendered.line)
        self._prompt_lengths.add(given, rendered.line)
        self._completion_lengths.add(written, rendered.line)
        if given:
            self._ratios[float(f"{written / given:.3g}")] += 1  # rounded, so that few distinct ones are kept
        self.labels.add(completion)

    def add_trained(self, fitted: RenderedExample) -> None:
        """Count an example that would be trained on, as it is then."""
        self.trained += 1
        self._prompt_tokens += fitted.prompt_tokens
        self._completion_tokens += fitted.completion_tokens
        self._trained_tokens += fitted.trained_tokens

    def finish(self) -> Statistics:
        """Give what was counted."""
        return Statistics(
            examples=self.examples,
            tokens=self.lengths.percentiles(),
            prompt_tokens=self._prompt_lengths.percentiles(),
            completion_tokens=self._completion_lengths.percentiles(),
            completion_prompt_ratio=quantile(self._ratios, 0.5) if self._ratios else None,
            trained=Totals(
                examples=self.trained,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                trained_tokens=self._trained_tokens,
                completion_prompt_ratio=self._completion_tokens / self._prompt_tokens if self._prompt_tokens else None,
                padding_tokens=self.trained * self._max_length - self._prompt_tokens - self._completion_tokens,
            ),
            labels=self.labels.find(),
        )
