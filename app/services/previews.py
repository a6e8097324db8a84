"""What asking for a preview means: which examples are shown, as which job would train on them, what is refused."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import orjson

from app.schemas.fine_tuning import JobFields
from app.schemas.previews import PreviewCreate
from app.services import fine_tuning, hyperparameters
from app.services.tokenizers import tokenizer_of
from core.base_models import Registry
from core.errors import BaseModelInvalid, BaseModelNotReady, ExampleInvalid, ExampleOverLength, InvalidParameter
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Session
from core.text.data_files import FileType, scan_examples
from core.text.examples import Columns, Example, LineProblem, format_of
from core.text.jsonl import parse_line
from core.text.preview import Preview, preview
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

SHOWN_OF_A_FILE: Final = 10


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file, as far as reading it needs."""

    sha256: str
    type: FileType


Source = StoredFile | tuple[Example, ...]


def find_source(session: Session, request: PreviewCreate, *, settings: Settings, registry: Registry) -> Source:
    """Give the examples that a request is about; what a job would be refused for is refused.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: an example or a file, or how fields fit it, is at fault.
    """
    fine_tuning.find_base(settings, registry, request.model)
    if request.examples is not None and request.training_file is None:
        return _written_out(request, request.examples, settings.max_line_bytes)
    if request.training_file is None or request.examples is not None:
        raise InvalidParameter("training_file", "give either training_file or examples")
    file = fine_tuning.find_file(session, request.training_file, "training_file", request)
    return StoredFile(file.sha256, cast(FileType, file.file_type))


def show(request: PreviewCreate, source: Source, *, settings: Settings, blobs: BlobStore) -> Preview:
    """Render what was asked for. Needs no session: it can take seconds.

    Raises:
        InvalidParameter: an example cannot be rendered or is over-length, so that the job would fail.
        BaseModelNotReady: the base model is not imported yet.
        BlobNotFound: the file's bytes are gone.
    """
    tokenizer = tokenizer_of(settings, request.model)
    max_length = hyperparameters.max_length_of(request, fine_tuning.context_tokens_of(settings, request.model))

    def of(examples: Iterable[Example], default_limit: int, param: Callable[[int], str]) -> Preview:
        later = (example for example in examples if example.line > request.after_line)
        try:
            return render(later, request, tokenizer, max_length=max_length, limit=request.limit or default_limit)
        except (ExampleInvalid, ExampleOverLength) as error:
            raise InvalidParameter(param(error.lines[0]), str(error)) from error

    if isinstance(source, StoredFile):
        with blobs.open(source.sha256) as content:
            return of(checked(scan_examples(content, source.type)), SHOWN_OF_A_FILE, lambda line: "training_file")
    return of(source, len(source), lambda line: f"examples[{line - 1}]")


def render(
    examples: Iterable[Example], fields: JobFields, tokenizer: TextTokenizer, *, max_length: int, limit: int
) -> Preview:
    """Show examples as a job of these fields would train on them.

    Raises:
        ExampleInvalid: an example cannot be rendered.
        ExampleOverLength: an example is too long and the job wants an error then.
        BaseModelNotReady: the base model's chat template is malformed.
    """
    try:
        renderer = Renderer(
            tokenizer,
            prompt_loss_weight=fields.prompt_loss_weight,
            train_on=fields.train_on,
            prompt_format=fields.prompt_format,
        )
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error
    return preview(examples, renderer, max_length=max_length, over_length=fields.over_length, limit=limit)


def checked(found: Iterable[Example | LineProblem]) -> Iterator[Example]:
    """Pass examples on.

    Raises:
        ExampleInvalid: at a line that is none.
    """
    for example in found:
        if isinstance(example, LineProblem):
            raise ExampleInvalid(str(example), (example.line,)) from example
        yield example


def _written_out(request: PreviewCreate, values: tuple[object, ...], max_bytes: int) -> tuple[Example, ...]:
    """Read examples as if each stood on a line of a file."""
    examples = []
    for index, value in enumerate(values):
        raw = orjson.dumps(value)
        try:
            if len(raw) > max_bytes:
                raise LineProblem(index + 1, f"it is longer than {max_bytes:,} bytes")
            example = parse_line(raw, index + 1)
            if examples and format_of(example) != format_of(examples[0]):
                kinds = f'"{format_of(example)}", but the first one has "{format_of(examples[0])}"'
                raise LineProblem(index + 1, f"it has the format {kinds}; use one")
        except LineProblem as problem:
            raise InvalidParameter(f"examples[{index}]", problem.reason) from problem
        examples.append(example)
    fine_tuning.check_format(request, format_of(examples[0]), common_columns(examples), name="examples")
    return tuple(examples)


def common_columns(examples: Iterable[Example]) -> tuple[str, ...]:
    """List the columns that every example has, in the first one's order; none where they are no columns."""
    values = [example.values for example in examples if isinstance(example, Columns)]
    return tuple(name for name in (values[0] if values else ()) if all(name in other for other in values))
