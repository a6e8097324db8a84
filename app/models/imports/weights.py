"""Takes the weights of an adapter from elsewhere: read once, verified tensor by tensor, and written as they are read.

By the engines' own rules: ``core.serving.weights_reader`` and ``core.serving.adapter_tensors``. Torch-free.
"""

from typing import IO, Any, Final

from app.models.imports.archive import ArchivedFile, refusing_malformed
from app.models.imports.numbers import are_finite
from app.models.imports.verification import FittingAdapter
from core.errors import AdapterInvalid, ImportRefused
from core.serving.adapter_format import WEIGHTS, FileDigest
from core.serving.adapter_tensors import place_tensors
from core.serving.strict_json import shown
from core.serving.weights_reader import BYTES_OF_NUMBER, HEADER_LIMIT_BYTES, WeightsReader
from core.store.blobs import BlobWriter

_READ_BYTES: Final = 2**18  # of an archive at a time


def copy_weights(adapter: FittingAdapter, weights: ArchivedFile, writer: BlobWriter) -> FileDigest:
    """Write the weights as they are read, and verify every tensor of them. Only then may the writer commit.

    Raises:
        ImportRefused: a tensor is too many, missing, of another shape, or has a value that is not finite; or the file
            is malformed, cut short, or not the one that its manifest names.
        StorageFull: the disk did not take them.
    """
    most_bytes = HEADER_LIMIT_BYTES + sum(shape.bytes(BYTES_OF_NUMBER["F32"]) for shape in adapter.shapes.values())
    if weights.bytes > most_bytes:
        raise ImportRefused(f"{WEIGHTS} has {weights.bytes:,} bytes, {most_bytes:,} are allowed")
    try:
        with refusing_malformed(), weights.open() as content:
            copying: Any = _Copying(content, writer)
            reader = WeightsReader("", copying, weights.bytes)
            for entry, _ in place_tensors("", reader.read_header(), adapter.shapes):
                if not are_finite(reader.read_bytes(entry), entry.kind):
                    raise ImportRefused(f"tensor {shown(entry.name)} has values that are not finite")
            found = FileDigest(sha256=reader.finish(), bytes=weights.bytes)
            if content.read(1):  # with which an archive's reader looks at its own checksum
                raise ImportRefused(f"{WEIGHTS} is longer than the archive says")
    except AdapterInvalid as error:
        raise ImportRefused(error.reason) from error
    if adapter.manifest is not None and adapter.manifest.files[WEIGHTS] != found:
        raise ImportRefused(f"{WEIGHTS} is not the file that manifest.json names")
    return found


class _Copying:
    """A file that is written elsewhere as it is read; a few bytes at a time, whatever is asked for."""

    def __init__(self, content: IO[bytes], writer: BlobWriter) -> None:
        self._content = content
        self._writer = writer

    def readinto(self, window: memoryview) -> int:
        read = self._content.read(min(len(window), _READ_BYTES))
        window[: len(read)] = read
        self._writer.write(read)
        return len(read)
