"""Chooses the rows that an evaluation asks: of a whole file, or of what a training holds out of its own.

Whoever asks says where the file's bytes are; what a row is, is ``core.evaluations.rows``'.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Final

from core.evaluations.rows import EvaluationRow, answer_of, choose_lines, read_rows
from core.jobs.spec import FileRef, JobSpec
from core.text.files.one_format import checked
from core.text.files.read import FILE_TYPES
from core.text.held_out import draw, hash_of
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer

_MAX_LABELS: Final = 50
_ROWS_PER_LABEL: Final = 2  # at least, on average
_FEWEST_NEW_TOKENS: Final = 16
_MOST_NEW_TOKENS: Final = 1024
_ROOM: Final = 1.25  # for an answer, of the longest reference

Opener = Callable[[], AbstractContextManager[BinaryIO]]  # opens the file's bytes at their beginning


@dataclass(frozen=True)
class Asked:
    """A file whose rows can be asked, and how they are rendered.

    Attributes:
        held_out_of: the job of which only what it holds out of its training file is asked; None: all rows can be.
    """

    file: FileRef
    rendering: RenderSettings
    held_out_of: JobSpec | None


@dataclass(frozen=True)
class Chosen:
    """The rows that are asked.

    Attributes:
        too_long: how many of those chosen are too long to be asked.
        learnt: how many rows were left out because a model was trained on their prompts.
        labels: None: they are not wanted, or the file's answers are no labels.
    """

    rows: tuple[EvaluationRow, ...]
    too_long: int
    learnt: int
    labels: tuple[str, ...] | None

    @property
    def max_tokens(self) -> int:
        """The usual limit of new tokens, alike for all rows and models: a quarter more than the longest reference."""
        longest = max((len(row.answer_ids) for row in self.rows), default=0)
        return min(max(int(_ROOM * longest), _FEWEST_NEW_TOKENS), _MOST_NEW_TOKENS)


def choose_rows(
    asked: Asked,
    renderer: Renderer,
    opened: Opener,
    most: int,
    *,
    wants_labels: bool,
    learnt: frozenset[int] = frozenset(),
) -> Chosen:
    """Choose rows by the hashes of their prompts, and render them.

    Args:
        learnt: hashes of prompts that are left out.

    Raises:
        ExampleInvalid: a line is no example, or cannot be rendered.
    """
    file_type = FILE_TYPES[asked.file.file_type]
    ranked: list[tuple[int, int]] = []
    drawn_by: list[str] = []
    labels: set[str] = set()
    draws = None if asked.held_out_of is None else Renderer(renderer.tokenizer, asked.held_out_of)
    with opened() as content:
        for example in checked(file_type.read(content)):
            ranked.append((hash_of(renderer.prompt_text(example)), example.line))
            if draws is not None:
                drawn_by.append(draws.prompt_text(example))
            if wants_labels and len(labels) <= _MAX_LABELS:
                labels.add(answer_of(example, renderer).strip())
    are_labels = wants_labels and len(labels) <= min(_MAX_LABELS, len(ranked) // _ROWS_PER_LABEL)
    there = ranked if draws is None else _held_out(ranked, drawn_by)
    unlearnt = [row for row in there if row[0] not in learnt]
    lines = choose_lines(unlearnt, most)
    with opened() as content:
        read = read_rows(checked(file_type.read(content)), lines, renderer)
    left_out = len(there) - len(unlearnt)
    return Chosen(read.rows, read.too_long, left_out, tuple(sorted(labels)) if are_labels else None)


def _held_out(ranked: Sequence[tuple[int, int]], drawn_by: Sequence[str]) -> list[tuple[int, int]]:
    """Keep the rows whose prompts a training holds out."""
    held_out = draw(drawn_by)
    return [row for row, prompt in zip(ranked, drawn_by, strict=True) if hash_of(prompt) in held_out]
