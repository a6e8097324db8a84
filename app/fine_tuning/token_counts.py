"""ExampleCounts what a job's files hold once they are rendered, as the trainer will; large files by a sample.

Bounded to about a second, because it is done while a client waits. Knows no model and no machine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Final, TypeVar

from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.estimates.estimate import ExampleCounts
from core.jobs.spec import JobSpec
from core.store.blobs import BlobStore, said_of
from core.text.files.examples import Example, LineProblem
from core.text.files.file_type import FileType, LineReader
from core.text.partition import fit_to_score, partition
from core.text.rendering import RenderedExample, Renderer

Made = TypeVar("Made")

# Up to these a file is counted as a whole. Rendering takes about 0.2 ms an example, or 0.7 s a megabyte.
EXACT_EXAMPLES: Final = 5_000
EXACT_BYTES: Final = 1_500_000
SAMPLED_EXAMPLES: Final = 2_500
WINDOWS: Final = 64  # of a file of lines, evenly spread; the lines that begin in each are read
WINDOW_BYTES: Final = 8 * 1024
MAX_TOKENS: Final = 400_000  # where reading stops; bounds long examples, and Parquet, whose bytes say little


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file as far as counting needs it; ``param`` is the request's field that named it."""

    param: str
    sha256: str
    type: FileType
    bytes: int
    examples: int


@dataclass
class _Sums:
    """Examples that are trained on, or that are scored."""

    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    scored_tokens: int = 0
    longest_tokens: int = 0

    def add(self, fitted: RenderedExample) -> None:
        tokens = len(fitted.input_ids)
        self.examples += 1
        self.tokens += tokens
        self.trained_tokens += fitted.trained_tokens
        self.scored_tokens += fitted.scored_tokens
        self.longest_tokens = max(self.longest_tokens, tokens)


def count(
    spec: JobSpec, renderer: Renderer, blobs: BlobStore, training: StoredFile, validation: StoredFile | None
) -> ExampleCounts:
    """Count a job's examples and tokens by its own settings.

    Raises:
        InvalidParameter: an example cannot be rendered, or is too long and the job wants an error then.
        BlobNotFound: a file's bytes are gone.
        BlobDamaged: a file's bytes have changed on disk.
    """
    reading = _Reading(training, renderer, blobs)
    try:
        parts = partition(reading, renderer, _Sums, holds_out=validation is None)
    except ExampleOverLength as error:
        raise InvalidParameter(training.param, str(error)) from error
    trained, scored = parts.trained, parts.held_out
    scale = scored_scale = reading.scale
    sampled = reading.is_sampled
    if validation is not None:
        validating = _Reading(validation, renderer, blobs)
        for rendered in validating.rendered():
            fitted = fit_to_score(rendered, renderer)
            if fitted is not None:
                scored.add(fitted)
        scored_scale = validating.scale
        sampled = sampled or validating.is_sampled
    return ExampleCounts(
        examples=round(scale * trained.examples),
        held_out_examples=round(scored_scale * scored.examples),
        dropped_examples=round(scale * len(parts.dropped_lines)),
        untrained_examples=round(scale * len(parts.untrained_lines)),
        tokens=round(scale * trained.tokens),
        trained_tokens=round(scale * trained.trained_tokens),
        held_out_tokens=round(scored_scale * scored.tokens),
        scored_tokens=round(scored_scale * scored.scored_tokens),
        longest_tokens=trained.longest_tokens,
        sampled=sampled,
        read_examples=reading.read,
    )


class _Reading:
    """A file or a sample of it as an ``ExampleSource``; ``read`` and what follows from it are of the last rendering.

    Of a sample the prompts that are held out are a tenth of its own, which need not be held out of the whole file.
    """

    def __init__(self, file: StoredFile, renderer: Renderer, blobs: BlobStore) -> None:
        self._file = file
        self._renderer = renderer
        self._blobs = blobs
        self._is_whole = file.examples <= EXACT_EXAMPLES and file.bytes <= EXACT_BYTES
        self._kept: list[Example | LineProblem] | None = None
        self._stopped = False
        self.read = 0

    @property
    def is_sampled(self) -> bool:
        return self._stopped or not self._is_whole

    @property
    def scale(self) -> float:
        """How many examples of the file each one that was read stands for."""
        return self._file.examples / self.read if self.is_sampled and self.read else 1.0

    def prompts(self) -> Iterator[str]:
        """Give each example's prompt; in a sample, an example at fault is passed over, as `rendered` does."""
        with self._open() as content:
            for found in self._examples(content):
                prompt = self._unless_at_fault(found, self._renderer.prompt_text)
                if prompt is not None:
                    yield prompt

    def examples(self) -> Iterator[RenderedExample]:
        """Give each example; of a sample none over the length that a job wants an error for, as `rendered` does."""
        settings = self._renderer.settings
        for rendered in self.rendered():
            if self._is_whole or settings.over_length != "error" or len(rendered.input_ids) <= settings.max_length:
                yield rendered

    def rendered(self) -> Iterator[RenderedExample]:
        """Give each example.

        In a sample, an example at fault is passed over: its line is not known, and the trainer will name it.
        """
        tokens = self.read = 0
        self._stopped = False
        with self._open() as content:
            for found in self._examples(content):
                self.read += 1
                rendered = self._unless_at_fault(found, self._renderer.example)
                if rendered is None:
                    continue
                yield rendered
                tokens += len(rendered.input_ids)
                if tokens > MAX_TOKENS:
                    self._stopped = True
                    return

    def _open(self) -> BinaryIO:
        with said_of(f"the file of {self._file.param}"):
            return self._blobs.open(self._file.sha256)

    def _unless_at_fault(self, found: Example | LineProblem, make: Callable[[Example], Made]) -> Made | None:
        """Make something of an example; None where that cannot be, in a sample."""
        try:
            if isinstance(found, LineProblem):  # of a file that was checked by an earlier version
                raise ExampleInvalid(str(found), (found.line,))
            return make(found)
        except ExampleInvalid as error:
            if self._is_whole:
                raise InvalidParameter(self._file.param, str(error)) from error
            return None

    def _examples(self, content: BinaryIO) -> Iterator[Example | LineProblem]:
        if self._is_whole:  # small enough to be read once for both passes over it
            self._kept = self._kept or list(self._file.type.read(content))
            return iter(self._kept)
        if self._file.type.line_reader is not None:
            return _spread(content, self._file.bytes, self._file.type.line_reader)
        stride = max(1, self._file.examples // SAMPLED_EXAMPLES)
        return islice(self._file.type.read(content), 0, None, stride)


def _spread(content: BinaryIO, size_bytes: int, read_line: LineReader) -> Iterator[Example | LineProblem]:
    """Read the lines that begin in some windows of a file; their numbers are not known, so they are 0."""
    position = 0
    for window in range(WINDOWS):
        begin = max(position, size_bytes * window // WINDOWS)
        end = begin + WINDOW_BYTES
        if begin > position:
            content.seek(begin - 1)
            content.readline()  # the rest of a line that began before the window
        while content.tell() < end and (raw := content.readline()):
            example = read_line(raw, 0)
            if example is not None:
                yield example
        position = content.tell()
