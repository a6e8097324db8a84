"""Decides what becomes of each example of a training file: trained on, held out, dropped or left untrained.

The trainer partitions by it what it learns from, the estimate what it counts, previews and reports what they show.
What is done with the examples of each part is the caller's.

Which prompts are held out is ``core.text.held_out``'s. Of those drawn some may turn out to have nothing to be scored
by; then the next in rank is held out too, or the last is not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

from core.text.held_out import draw, hash_of
from core.text.rendered import RenderedExample
from core.text.rendering import Renderer


class ExamplePart(Enum):
    """What becomes of an example of a training file."""

    TRAINED = auto()
    HELD_OUT = auto()  # scored, never trained on
    DROPPED = auto()  # over the length, as the length policy says
    UNTRAINED = auto()  # every weight is 0


class ExampleSource(Protocol):
    """A training file, or a sample of one, that can be read again; each reading gives the same."""

    def prompts(self) -> Iterator[str]:
        """Give each example's `RenderedExample.prompt_text`, without tokenising anything."""
        ...

    def examples(self) -> Iterator[RenderedExample]: ...


class Gathering(Protocol):
    """Takes the examples of a part as they come, as they are cut to fit: the trainer's arrays, or mere sums."""

    def add(self, fitted: RenderedExample, /) -> None: ...


Gathered = TypeVar("Gathered", bound=Gathering)


@dataclass(frozen=True)
class Partition(Generic[Gathered]):
    """A training file in its parts; of the examples that are not used, the lines."""

    trained: Gathered
    held_out: Gathered
    dropped_lines: list[int]
    untrained_lines: list[int]


def part_of(fitted: RenderedExample | None, *, is_held_out: bool = False) -> ExamplePart:
    """Tell what becomes of an example.

    Args:
        fitted: the example as `Renderer.fit` gives it; None: dropped.
        is_held_out: its prompt is among those that are held out.
    """
    if fitted is None:
        return ExamplePart.DROPPED
    if not fitted.trained_tokens:
        return ExamplePart.UNTRAINED
    return ExamplePart.HELD_OUT if is_held_out else ExamplePart.TRAINED


def partition(
    source: ExampleSource, renderer: Renderer, gather: Callable[[], Gathered], *, holds_out: bool
) -> Partition[Gathered]:
    """Sort a training file's examples. Fewer than two prompts with an answer to score: none is held out.

    Args:
        source: is read once for its prompts and once for its examples; once more where none or all of those that
            have an answer to score turned out to be held out.
        gather: makes what takes the examples of a part.
        holds_out: no validation file says what to score, so some of these prompts do.

    Raises:
        ExampleInvalid: an example cannot be rendered.
        ExampleOverLength: an example is too long and the settings want an error then.
    """
    if not holds_out:
        return _sort(source, renderer, gather, frozenset())[0]
    drawn = draw(source.prompts())
    parts, seen = _sort(source, renderer, gather, drawn)
    corrected = seen.correct(drawn)
    return parts if corrected == drawn else _sort(source, renderer, gather, corrected)[0]


def fit_to_score(rendered: RenderedExample, renderer: Renderer) -> RenderedExample | None:
    """Fit an example of a validation file; None when it is not scored.

    Being too long is no reason to fail a job, whatever the policy for training says, nor is its prompt cut.
    """
    return renderer.fit(rendered, "drop")


class _Extremes:
    """The smallest and the largest of some hashes."""

    def __init__(self) -> None:
        self.least: int | None = None
        self.most: int | None = None

    def add(self, value: int) -> None:
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)

    @property
    def are_several(self) -> bool:
        return self.least != self.most


class _Scorable:
    """Which prompts with an answer to score were seen on either side."""

    def __init__(self) -> None:
        self.trained, self.held_out = _Extremes(), _Extremes()

    def correct(self, drawn: frozenset[int]) -> frozenset[int]:
        """See to it that at least one of them is held out and never all: by the next in rank, or the last.

        What was drawn may have been dropped for its length, or have nothing to be scored by.
        """
        if self.trained.least is not None and self.held_out.most is not None:
            return drawn
        if self.trained.least is not None and self.trained.are_several:
            return drawn | {self.trained.least}
        if self.held_out.most is not None and self.held_out.are_several:
            return drawn - {self.held_out.most}
        return frozenset()


def _sort(
    source: ExampleSource, renderer: Renderer, gather: Callable[[], Gathered], drawn: frozenset[int]
) -> tuple[Partition[Gathered], _Scorable]:
    parts, seen = Partition(gather(), gather(), [], []), _Scorable()
    for rendered in source.examples():
        fitted = renderer.fit(rendered)
        # by the whole prompt, so that prompts with equal ends are not one prompt once they are cut
        value = hash_of(rendered.prompt_text)
        part = part_of(fitted, is_held_out=value in drawn)
        if fitted is None:
            parts.dropped_lines.append(rendered.line)
        elif part is ExamplePart.UNTRAINED:
            parts.untrained_lines.append(rendered.line)
        else:
            is_held_out = part is ExamplePart.HELD_OUT
            (parts.held_out if is_held_out else parts.trained).add(fitted)
            if fitted.scored_tokens:
                (seen.held_out if is_held_out else seen.trained).add(value)
    return parts, seen
