"""What is looked for in a training file and in a validation file, example by example.

Which tokens an example becomes and what is cut to fit is the renderer's, as in training.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final

from core.errors import ExampleInvalid, ExampleOverLength
from core.text.files.examples import (
    Chat,
    Columns,
    Example,
    LineProblem,
    PromptCompletion,
)
from core.text.files.one_format import OneFormat
from core.text.lint.example_checks import ExampleChecks, compared_text
from core.text.lint.findings import FileRole, Findings
from core.text.lint.labels import IMBALANCE
from core.text.lint.near_duplicates import NearDuplicates
from core.text.lint.repetitions import ComparedText, Repetitions
from core.text.lint.statistics import StatisticsCounter
from core.text.partition import ExamplePart, fit_to_score, part_of
from core.text.rendering import RenderedExample, Renderer

COMPARED_EXAMPLES: Final = 200_000  # of the training file

# What is rendered at once: enough to occupy all cores, little enough to be held.
BATCH_EXAMPLES: Final = 256
BATCH_CHARS: Final = 2**20

Found = Example | LineProblem


class _FileLint(ABC):
    """What either file has: lines that are no examples, and examples that do not fit."""

    def __init__(self, role: FileRole, renderer: Renderer) -> None:
        self.findings = Findings(role)
        self._renderer = renderer
        self._max_length = renderer.settings.max_length

    def read(self, lines: Iterable[Found]) -> None:
        """Read the whole file."""
        is_empty = True
        for batch in _batches(map(OneFormat().check, lines)):
            is_empty = False
            rendered = iter(self._renderer.examples([one for one in batch if not isinstance(one, LineProblem)]))
            for one in batch:
                if isinstance(one, LineProblem):
                    self.findings.note(one.code, one.line, str(one))
                else:
                    self._take(next(rendered))
        if is_empty:
            self.findings.note("empty_file", 1, "line 1: the file holds no examples")

    def _take(self, rendered: RenderedExample | ExampleInvalid) -> None:
        if isinstance(rendered, ExampleInvalid):
            self.findings.note("cannot_render", rendered.lines[0], str(rendered))
        else:
            self._look_at(rendered)

    @abstractmethod
    def _look_at(self, rendered: RenderedExample) -> None:
        """Note what is odd about an example that was rendered."""

    def _note_cut(self, rendered: RenderedExample, fitted: RenderedExample | None) -> None:
        """Note what of an example is left out to fit."""
        if fitted is None:
            self.findings.note("over_length_dropped", rendered.line, tokens_lost=len(rendered.input_ids))
        elif fitted.dropped_tokens:
            self.findings.note("prompt_truncated", rendered.line, tokens_lost=fitted.dropped_tokens)


class TrainingLint(_FileLint):
    """Reads a training file; ``seen`` remembers its examples for a comparison."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__("training_file", renderer)
        self.counts = StatisticsCounter(renderer.settings.max_length)
        self.seen = Repetitions()
        self._checks = ExampleChecks(renderer)
        self._near = NearDuplicates()
        self._compared = 0

    def read(self, lines: Iterable[Found]) -> None:
        """Read the whole file, and note what is known only at its end."""
        super().read(lines)
        self._note_near(self._near.finish())
        self._note_shape()
        if self.counts.examples and not self.counts.trained:
            self.findings.note_many("nothing_to_train", 1, ())

    def _look_at(self, rendered: RenderedExample) -> None:
        text = compared_text(rendered)
        self.counts.add(rendered, text.completion)
        for code, first in self._checks.find(rendered, text):
            self.findings.note(code, rendered.line, f"{rendered.line}: {first}")
        self._compare(text, rendered.line)
        if rendered.prompt_tokens > self._max_length:
            self.findings.note("prompt_over_max_length", rendered.line)
        try:
            fitted = self._renderer.fit(rendered)
        except ExampleOverLength:
            over = len(rendered.input_ids) - self._max_length
            self.findings.note("over_length_refused", rendered.line, tokens_over=over)
            return
        self._note_cut(rendered, fitted)
        if part_of(fitted) is ExamplePart.UNTRAINED:
            self.findings.note("no_trained_tokens", rendered.line)
        elif fitted is not None:
            self.counts.add_trained(fitted)

    def _compare(self, text: ComparedText, line: int) -> None:
        if self._compared == COMPARED_EXAMPLES:
            self.findings.note("comparison_capped", line)
            return
        self._compared += 1
        seen = self.seen.add(text, line)
        if seen.exact is not None:
            self.findings.note("duplicate", line, f"{line}, repeats line {seen.exact}")
            return
        if seen.prompt is not None:
            self.findings.note("conflicting_completions", line, f"{line}, has the prompt of line {seen.prompt}")
        self._note_near(self._near.add(text.words, line, seen.normalised))

    def _note_near(self, pairs: Iterable[tuple[int, int]]) -> None:
        for line, earlier in pairs:
            self.findings.note("near_duplicate", line, f"{line}, is like line {earlier}")

    def _note_shape(self) -> None:
        """Note outliers among the lengths, and completions that are labels."""
        short, long = self.counts.lengths.outliers()
        if short is not None:
            self.findings.note_many("very_short", short.count, short.lines, to_tokens=short.nearest)
        if long is not None:
            self.findings.note_many("very_long", long.count, long.lines, from_tokens=long.nearest)
        labels = self.counts.labels.find()
        if labels is not None:
            most, least = labels[0].count, labels[-1].count
            code = "label_imbalance" if most >= IMBALANCE * least else "few_distinct_completions"
            examples = sum(label.count for label in labels)
            self.findings.note_many(code, examples, (), labels=len(labels), most=most, least=least)


class ValidationLint(_FileLint):
    """Reads a validation file, and compares it with the training file that was read before."""

    def __init__(self, renderer: Renderer, seen: Repetitions) -> None:
        super().__init__("validation_file", renderer)
        self._seen = seen

    def _look_at(self, rendered: RenderedExample) -> None:
        self._note_cut(rendered, fit_to_score(rendered, self._renderer))
        seen = self._seen.find(compared_text(rendered))
        line = rendered.line
        if seen.exact is not None:
            self.findings.note("validation_overlap", line, f"{line}, is line {seen.exact} of the training file")
        elif seen.normalised is not None:
            where = f"{line}, is like line {seen.normalised} of the training file"
            self.findings.note("validation_overlap_normalised", line, where)
        elif seen.prompt is not None:
            where = f"{line}, has the prompt of line {seen.prompt} of the training file"
            self.findings.note("validation_prompt_overlap", line, where)


def _batches(lines: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    chars = 0
    for found in lines:
        batch.append(found)
        chars += _chars_of(found)
        if len(batch) == BATCH_EXAMPLES or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _chars_of(found: Found) -> int:
    """Count the characters of an example's own texts, for a bound on what a batch holds."""
    match found:
        case PromptCompletion():
            return len(found.prompt) + len(found.completion)
        case Chat():
            return sum(len(message.content) for message in found.messages)
        case Columns():
            return sum(len(value) for value in found.values.values() if isinstance(value, str))
        case LineProblem():
            return 0
