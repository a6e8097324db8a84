"""Which rows of a file an experiment trains on, which it chooses by, and which it is judged by.

By the text of the prompts alone, as ``core.text.held_out`` ranks them: two rows of one prompt are never on two sides,
whatever else the file says of them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from core.errors import InvalidParameter
from core.text.held_out import draw, draw_to_choose_and_to_judge, hash_of

MIN_JUDGED: Final = 2  # rows; of fewer no interval can be given
_NAMED: Final = 5  # lines


class RowPart(StrEnum):
    """What an experiment does with a row."""

    TRAIN = "train"
    CHOOSE = "choose"
    JUDGE = "judge"


@dataclass(frozen=True)
class Row:
    """A row of a file, by its line and by the hash of its prompt."""

    line: int
    prompt: int


def rows_of(prompts: Iterable[tuple[int, str]]) -> list[Row]:
    """Make rows of lines and their prompts' texts."""
    return [Row(line, hash_of(prompt)) for line, prompt in prompts]


def split(prompts: Sequence[tuple[int, str]], *, judges: bool, chooses: bool) -> Mapping[int, RowPart]:
    """Say what becomes of each line of a training file, which may have to give other parts' rows, too.

    Args:
        prompts: line and prompt's text of each row.
        judges: some are to be judged by. chooses: something is chosen by others before the judge has its say.

    Raises:
        InvalidParameter: too few prompts for so many parts.
    """
    texts = [prompt for _, prompt in prompts]
    choosing, judging = frozenset[int](), frozenset[int]()
    if judges and chooses:
        choosing, judging = draw_to_choose_and_to_judge(texts)
    elif judges:
        judging = draw(texts)
    elif chooses:
        choosing = draw(texts)
    parts = {row.line: _part(row, choosing, judging) for row in rows_of(prompts)}
    counts = Counter(parts.values())
    if judges and counts[RowPart.JUDGE] < MIN_JUDGED:
        raise InvalidParameter(
            "judge",
            f"the held-out part of the training file has {counts[RowPart.JUDGE]} rows, and {MIN_JUDGED} are the least "
            "that can be compared (100 for a verdict); give a file to be judged by, or more examples",
        )
    if (chooses and not counts[RowPart.CHOOSE]) or not counts[RowPart.TRAIN]:
        raise InvalidParameter("job.training_file", "has too few prompts to train on some and to hold others out")
    return parts


def refuse_overlap(judged: Sequence[Row], seen: Sequence[Row], seen_as: str, param: str) -> None:
    """Refuse rows to be judged by that the arms see before.

    Args:
        seen_as: the file that the arms see, in words.
        param: the request's field that names the rows to be judged by.

    Raises:
        InvalidParameter: a prompt is in both; the first lines are named.
    """
    line_of = {row.prompt: row.line for row in reversed(seen)}
    common = [row for row in judged if row.prompt in line_of]
    if not common:
        return
    named = ", ".join(f"{row.line} (line {line_of[row.prompt]} of {seen_as})" for row in common[:_NAMED])
    more = f" and {len(common) - _NAMED:,} more" if len(common) > _NAMED else ""
    raise InvalidParameter(
        param, f"its lines {named}{more} have prompts that are in {seen_as}, too; take them out of one of the files"
    )


def refuse_few(judged: Sequence[Row], param: str) -> None:
    """Refuse a file to be judged by that no interval can be given of.

    Raises:
        InvalidParameter: it has fewer than two rows.
    """
    if len(judged) < MIN_JUDGED:
        raise InvalidParameter(param, f"has {len(judged)} rows, and {MIN_JUDGED} are the least that can be compared")


def _part(row: Row, choosing: frozenset[int], judging: frozenset[int]) -> RowPart:
    if row.prompt in judging:
        return RowPart.JUDGE
    return RowPart.CHOOSE if row.prompt in choosing else RowPart.TRAIN
