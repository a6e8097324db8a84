"""A file's rows as an evaluation asks them: the ids that are fed, the answer that is held against the model's.

Rendered as training renders them, so a model is fed what it was trained on. Of a conversation the last answer is the
one that is asked; what the others say is part of its prompt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final, Literal

from core.errors import ExampleInvalid
from core.evaluations.general_text import PASSAGES
from core.text.files.examples import Chat, Columns, Example
from core.text.held_out import hash_of
from core.text.partition import fit_to_score
from core.text.rendered import ANSWER, Reason, RenderedExample, ids_of
from core.text.rendering import Renderer

_AT_ONCE: Final = 256


QuestionPart = Literal["judged", "general", "trained"]


@dataclass(frozen=True)
class EvaluationRow:
    """One row.

    Attributes:
        line: of its file; 0 for general text.
        cluster: equal for rows whose prompts are the same but for case and white space.
        prompt, reference: as texts; the reference without its closing token.
        prompt_ids: what is fed.
        answer_ids: the reference's, the closing one included; ``counted`` says of each whether it has a weight.
        part: what the row is for: to judge the models by, or for the report on what they forgot or learnt by heart.
    """

    line: int
    cluster: str
    prompt: str
    reference: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    counted: tuple[bool, ...]
    part: QuestionPart = "judged"


@dataclass(frozen=True)
class RowsRead:
    """The rows of some lines, in the file's order, and how many of the lines are too long to be asked."""

    rows: tuple[EvaluationRow, ...]
    too_long: int


def choose_lines(hashes: Iterable[tuple[int, int]], most: int) -> list[int]:
    """Choose lines by the hashes of their prompts, the smallest first, so that another order of lines changes nothing.

    Args:
        hashes: of each row that may be chosen, its prompt's `held_out.hash_of`, and its line.
    """
    return sorted(line for _, line in sorted(hashes)[:most])


def read_rows(examples: Iterable[Example], lines: Sequence[int], renderer: Renderer) -> RowsRead:
    """Render the rows on some lines.

    Raises:
        ExampleInvalid: one of them cannot be rendered.
    """
    wanted = frozenset(lines)
    chosen = (example for example in examples if example.line in wanted)
    rows: list[EvaluationRow] = []
    too_long = 0
    while batch := list(islice(chosen, _AT_ONCE)):
        for rendered in renderer.examples(batch):
            if isinstance(rendered, ExampleInvalid):
                raise rendered
            if fit_to_score(rendered, renderer) is None:
                too_long += 1
            else:
                rows.append(_row_of(rendered))
    return RowsRead(tuple(rows), too_long)


def general_rows(renderer: Renderer, context_tokens: int) -> list[EvaluationRow]:
    """Give the passages of general text, as far as the context holds them.

    Every token is predicted but what a model is given to begin with: the ids before any text, or the first one.
    """
    rows = []
    for _, text in PASSAGES:
        ids = renderer.prompt(text).ids[:context_tokens]
        given = max(1, len(renderer.tokenizer.prefix_ids))
        counted = (True,) * (len(ids) - given)
        row = EvaluationRow(0, cluster_of(text), "", text, ids[:given], ids[given:], counted, "general")
        rows.append(row)
    return rows


def answer_of(example: Example, renderer: Renderer) -> str:
    """Give the answer of a row as its author wrote it, without rendering the rest.

    Raises:
        TemplateProblem: the prompt format fails on these columns.
    """
    match example:
        case Chat():
            return example.messages[-1].content
        case Columns():
            return renderer.texts(example)[1]
        case _:
            return example.completion


def cluster_of(prompt_text: str) -> str:
    """Name the cluster of a prompt, as `Renderer.prompt_text` gives it."""
    return f"{hash_of(prompt_text):016x}"


def _row_of(rendered: RenderedExample) -> EvaluationRow:
    kept = list(rendered.kept)
    prompt = list(takewhile(lambda segment: segment.reason not in ANSWER, kept))
    answer = list(takewhile(lambda segment: segment.reason in ANSWER, kept[len(prompt) :]))
    return EvaluationRow(
        line=rendered.line,
        cluster=cluster_of(rendered.prompt_text),
        prompt="".join(segment.text for segment in prompt),
        reference="".join(segment.text for segment in answer if segment.reason is not Reason.END),
        prompt_ids=ids_of(prompt),
        answer_ids=ids_of(answer),
        counted=tuple(segment.weight > 0 for segment in answer for _ in segment.ids),
    )
