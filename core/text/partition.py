"""Decides what becomes of each example of a training file: trained on, held out, dropped or left untrained.

The trainer partitions by it what it learns from, the estimate what it counts, previews and reports what they show.
What is done with the examples of each part is the caller's.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Generic, Protocol, TypeVar

from core.text.rendered import RenderedExample
from core.text.rendering import Renderer

HELD_OUT_ONE_IN: Final = 10  # prompts


class ExamplePart(Enum):
    """What becomes of an example of a training file."""

    TRAINED = auto()
    HELD_OUT = auto()  # scored, never trained on
    DROPPED = auto()  # over the length, as the length policy says
    UNTRAINED = auto()  # every weight is 0


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


def part_of(rendered: RenderedExample, fitted: RenderedExample | None, *, seed: int | None = None) -> ExamplePart:
    """Tell what becomes of an example.

    Args:
        fitted: the example as `Renderer.fit` gives it; None: dropped.
        seed: of the job, which draws the prompts that are held out; None: none is.
    """
    if fitted is None:
        return ExamplePart.DROPPED
    if not fitted.trained_tokens:
        return ExamplePart.UNTRAINED
    # by the whole prompt, so that prompts with equal ends are not one prompt once they are cut
    if seed is not None and held_out(prompt_key(rendered.prompt_ids), seed):
        return ExamplePart.HELD_OUT
    return ExamplePart.TRAINED


def partition(
    examples: Iterable[RenderedExample], renderer: Renderer, gather: Callable[[], Gathered], *, seed: int | None
) -> Partition[Gathered]:
    """Sort a training file's examples. If every prompt is drawn, as can happen with few, none is held out.

    Args:
        gather: makes what takes the examples of a part.
        seed: of the job, where no validation file says what to score; None: no prompt is held out.

    Raises:
        ExampleOverLength: an example is too long and the settings want an error then.
    """
    parts = Partition(gather(), gather(), [], [])
    n_trained = 0
    for rendered in examples:
        fitted = renderer.fit(rendered)
        part = part_of(rendered, fitted, seed=seed)
        if fitted is None:
            parts.dropped_lines.append(rendered.line)
        elif part is ExamplePart.UNTRAINED:
            parts.untrained_lines.append(rendered.line)
        elif part is ExamplePart.HELD_OUT:
            parts.held_out.add(fitted)
        else:
            parts.trained.add(fitted)
            n_trained += 1
    return parts if n_trained else replace(parts, trained=parts.held_out, held_out=parts.trained)


def fit_to_score(rendered: RenderedExample, renderer: Renderer) -> RenderedExample | None:
    """Fit an example of a validation file; None when it is not scored.

    Being too long is no reason to fail a job, whatever the policy for training says, nor is its prompt cut.
    """
    return renderer.fit(rendered, "drop")


def prompt_key(prompt_ids: Iterable[int]) -> str:
    """Name a prompt, so that examples with equal prompts are held out together."""
    return " ".join(map(str, prompt_ids))


def held_out(prompt_key: str, seed: int) -> bool:
    """Hold out about one prompt in ten, by hash: equal prompts go to the same side, whatever their order."""
    digest = hashlib.sha256(f"{seed}\0{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0
