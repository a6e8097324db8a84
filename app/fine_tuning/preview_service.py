"""What asking for a preview means: which examples are shown, as which job would train on them, what is refused."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from app.fine_tuning import hyperparameters, service
from app.fine_tuning.preview_schemas import PreviewCreate
from app.fine_tuning.schemas import JobFields
from app.tokenizers import tokenizer_of
from core.base_models.registry import Registry
from core.errors import BaseModelInvalid, BaseModelNotReady, ExampleInvalid, ExampleOverLength, InvalidParameter
from core.jobs.spec import FileRef
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Session
from core.text.files.examples import Columns, Example, LineProblem, format_of, refuse_deep
from core.text.files.jsonl import parse_line, too_long
from core.text.files.read import scan_examples
from core.text.preview import Preview, preview
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

SHOWN_OF_A_FILE: Final = 10


Source = FileRef | tuple[Example, ...]


class Shown(NamedTuple):
    """A preview, and the length limit in force for it, in tokens."""

    preview: Preview
    max_length: int


def find_source(session: Session, request: PreviewCreate, *, settings: Settings, registry: Registry) -> Source:
    """Give the examples that a request is about; what a job would be refused for is refused.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: an example or a file, or how fields fit it, is at fault.
    """
    service.find_base(settings, registry, request.model)
    if request.examples is not None and request.training_file is None:
        return _written_out(request, request.examples, settings.max_line_bytes)
    if request.training_file is None or request.examples is not None:
        raise InvalidParameter("training_file", "give either training_file or examples")
    file = service.find_file(session, request.training_file, "training_file", request)
    return service.file_ref(file)


def show(request: PreviewCreate, source: Source, *, settings: Settings, blobs: BlobStore) -> Shown:
    """Render what was asked for. Needs no session: it can take seconds.

    Raises:
        InvalidParameter: an example cannot be rendered or is over-length, so that the job would fail.
        BaseModelNotReady: the base model is not imported yet.
        BlobNotFound: the file's bytes are gone.
    """
    if not isinstance(source, FileRef):
        return _show(request, source, request.limit or len(source), settings)
    with blobs.open(source.sha256) as content:
        examples = checked(scan_examples(content, source.file_type))
        return _show(request, examples, request.limit or SHOWN_OF_A_FILE, settings)


def _show(request: PreviewCreate, examples: Iterable[Example], limit: int, settings: Settings) -> Shown:
    tokenizer = tokenizer_of(settings, request.model)
    max_length = hyperparameters.max_length_of(request, service.context_tokens_of(settings, request.model))
    later = (example for example in examples if example.line > request.after_line)
    try:
        return Shown(render(later, request, tokenizer, max_length=max_length, limit=limit), max_length)
    except (ExampleInvalid, ExampleOverLength) as error:
        place = "training_file" if request.examples is None else _place(error)
        raise InvalidParameter(place, str(error)) from error


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
        ExampleInvalid: at a line that is none, or has another format than the first one.
    """
    first = None
    for example in found:
        if isinstance(example, LineProblem):
            raise ExampleInvalid(str(example), (example.line,)) from example
        first = first or format_of(example)
        if format_of(example) != first:
            reason = f'line {example.line}: its format is "{format_of(example)}", but the first one\'s is "{first}"'
            raise ExampleInvalid(f"{reason}; use one in a file", (example.line,))
        yield example


def _written_out(request: PreviewCreate, values: Sequence[object], max_bytes: int) -> tuple[Example, ...]:
    """Read examples as if each stood on a line of a file."""
    try:
        examples = tuple(checked(_parse(value, line, max_bytes) for line, value in enumerate(values, start=1)))
    except ExampleInvalid as error:
        raise InvalidParameter(_place(error), str(error)) from error
    columns = [example.values for example in examples if isinstance(example, Columns)]
    common = [name for name in columns[0] if all(name in other for other in columns)] if columns else []
    service.check_format(request, format_of(examples[0]), common, name="examples")
    return examples


def _parse(value: object, line: int, max_bytes: int) -> Example | LineProblem:
    try:
        if isinstance(value, dict | list):
            refuse_deep(value, line)  # first, because writing it out recurses
        raw = orjson.dumps(value)
        return parse_line(raw, line) if len(raw) <= max_bytes else too_long(line, max_bytes)
    except LineProblem as problem:
        return problem


def _place(error: ExampleInvalid | ExampleOverLength) -> str:
    """Name an example that was written out as the request's author counts it."""
    return f"examples[{error.lines[0] - 1}]"
