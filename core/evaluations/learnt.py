"""Which prompts an adapter was trained on, so that no model is judged by what it has learnt.

By the files of its job, and of the jobs whose adapters that one went on from, as long as their bytes are stored.
Whoever asks says what was trained how, and where the bytes are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Final

from core.errors import BlobDamaged, BlobNotFound, ExampleInvalid, InvalidParameter
from core.evaluations.rows import EvaluationRow, choose_lines
from core.evaluations.spec import LINES_NAMED, JudgedModel, TrainedRows
from core.jobs.spec import FileRef, JobSpec
from core.text.files.examples import Example
from core.text.files.one_format import checked
from core.text.files.read import FILE_TYPES
from core.text.held_out import draw, hash_of
from core.text.rendering import Renderer

LINES: Final = 50  # of a model's training, by which it is asked what it learnt by heart

SpecFinder = Callable[[str], JobSpec | None]  # what a model of this name was trained as; None: nobody knows
FileOpener = Callable[[FileRef], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class Learnt:
    """What a model learnt from.

    Attributes:
        prompts: hashes of the prompts, as they are asked now.
        spec: of the job that made it.
        lines: a few of that job's training file, chosen by the hashes of their prompts.
    """

    prompts: frozenset[int]
    spec: JobSpec
    lines: tuple[int, ...]


def find_all_learnt(
    models: Sequence[JudgedModel], asked: Renderer, spec_of: SpecFinder, opened: FileOpener
) -> dict[str, Learnt | None]:
    """Give what each adapter learnt from, by its name; None where that cannot be known any more.

    Args:
        asked: the renderer by which the rows are asked, whose prompts these are to be held against.
    """
    names = [model.name for model in models if model.adapter is not None]
    return {name: _find_learnt(name, asked, spec_of, opened) for name in names}


def require_unlearnt(learnt: Mapping[str, Learnt | None], rows: Sequence[EvaluationRow], param: str) -> None:
    """Refuse rows that a model was trained on.

    Args:
        param: the request's field that named the rows.

    Raises:
        InvalidParameter: there are some; their lines are named.
    """
    for name, known in learnt.items():
        lines = [] if known is None else [row.line for row in rows if int(row.cluster, 16) in known.prompts]
        if lines:
            more = f" and {len(lines) - LINES_NAMED} more" if len(lines) > LINES_NAMED else ""
            named = ", ".join(map(str, lines[:LINES_NAMED]))
            raise InvalidParameter(
                param,
                f"{name} was trained on the prompts of line {named}{more}, so its answers there prove nothing; "
                "leave these rows out, or name its job in `job` to ask what it held out",
            )


def rows_learnt(learnt: Mapping[str, Learnt | None], context_tokens: int) -> tuple[TrainedRows, ...]:
    """Name some rows that each adapter was trained on, rendered as they were then."""
    trained = []
    for name, known in learnt.items():
        if known is not None:
            rendering = known.spec.with_max_length(min(known.spec.max_length, context_tokens))
            file = known.spec.training_file
            trained.append(TrainedRows(model=name, file=file, rendering=rendering, lines=known.lines))
    return tuple(trained)


def _find_learnt(model: str, asked: Renderer, spec_of: SpecFinder, opened: FileOpener) -> Learnt | None:
    name: str | None = model
    seen: dict[str, tuple[JobSpec, dict[int, int]]] = {}
    while name is not None and name not in seen:
        spec = spec_of(name)
        trained = None if spec is None else _trained_by(spec, asked, opened)
        if spec is None or trained is None:
            return None
        seen[name] = spec, trained
        name = None if spec.continue_from is None else spec.continue_from.name
    spec, trained = seen[model]
    prompts = frozenset(prompt for _, hashes in seen.values() for prompt in hashes.values())
    return Learnt(prompts, spec, tuple(choose_lines(((prompt, line) for line, prompt in trained.items()), LINES)))


def _trained_by(spec: JobSpec, asked: Renderer, opened: FileOpener) -> dict[int, int] | None:
    """Give the lines that a job trained on, each with the hash of its prompt; None where the file is gone."""
    trained_as = Renderer(asked.tokenizer, spec)
    is_alike = (spec.prompt_format, spec.train_on) == (asked.settings.prompt_format, asked.settings.train_on)
    prompts: list[tuple[int, str, str]] = []  # by line, as the job rendered them, and as they are asked
    try:
        for example in _examples(spec.training_file, opened):
            own = trained_as.prompt_text(example)
            prompts.append((example.line, own, own if is_alike else _prompt_text(asked, example, own)))
    except (BlobNotFound, BlobDamaged, ExampleInvalid):
        return None
    held_out = frozenset() if spec.validation_file is not None else draw(own for _, own, _ in prompts)
    return {line: hash_of(as_asked) for line, own, as_asked in prompts if hash_of(own) not in held_out}


def _prompt_text(asked: Renderer, example: Example, own: str) -> str:
    try:
        return asked.prompt_text(example)
    except ExampleInvalid:  # of another shape than the rows that are asked
        return own


def _examples(file: FileRef, opened: FileOpener) -> Iterator[Example]:
    with opened(file) as content:
        yield from checked(FILE_TYPES[file.file_type].read(content))
