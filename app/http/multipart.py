"""Reads a multipart form with a file, or a few, while it arrives, without ever holding or spooling any.

What the file's bytes are for is the sink's matter; framework form parsing would write the whole
file to a temporary one before the route is called.
"""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, Protocol

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import FileTooLarge, InvalidInput, InvalidParameter, ServiceError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

FRAMING_BYTES: Final = 64 * 2**10  # room for boundaries, headers and the fields beside the file
MAX_FIELD_BYTES: Final = 4 * 2**10
_MAX_FIELDS: Final = 16
_DRAIN_S: Final = 30.0
_BATCH_BYTES: Final = 2**18  # per hand-over to a thread, which costs more than parsing a few packets


class Sink(Protocol):
    def begin(self, filename: str) -> None:
        """Take the file's name, before its bytes."""
        ...

    def write(self, data: bytes) -> None: ...


class FormReader:
    """Parses what it is fed; ``fields`` are complete when `finish` returned."""

    def __init__(
        self, content_type: str, sink: Sink, *, max_files: int = 1, max_field_bytes: int = MAX_FIELD_BYTES
    ) -> None:
        """Begin a form. All files are called ``file``.

        Raises:
            InvalidInput: the content type is not multipart/form-data with a boundary.
        """
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidInput("the body must be multipart/form-data")
        self.fields: dict[str, str] = {}
        self._sink = sink
        self._max_files = max_files
        self._max_field_bytes = max_field_bytes
        self._files = 0
        self._is_ended = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except FormParserError as error:
            raise InvalidInput(f"the multipart boundary cannot be used: {error}") from error

    def feed(self, data: bytes) -> None:
        """Parse the next bytes, and hand the file's among them to the sink.

        Raises:
            InvalidInput: this is not a multipart form, or its fields are too many or too large.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidInput(f"the multipart form is malformed: {error}") from error

    def finish(self) -> None:
        """Check that the form is whole.

        Raises:
            InvalidInput: the form's end is missing.
            InvalidParameter: it has no file.
        """
        if not self._is_ended:
            raise InvalidInput("the multipart form ends before its closing boundary")
        if not self._files:
            raise InvalidParameter("file", "the form has no file")

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._disposition = b""
        self._value.clear()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file and self._files == self._max_files:
            most = "one file" if self._max_files == 1 else f"{self._max_files} files"
            raise InvalidParameter("file", f"the form has more than {most}")
        if self._is_file:
            self._files += 1
            self._sink.begin(options.get(b"filename", b"").decode("utf-8", "replace"))
        elif not self._name:
            raise InvalidInput("a part of the multipart form has no name")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > self._max_field_bytes:
            raise InvalidParameter(self._name, f"the field is longer than {self._max_field_bytes} bytes")

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")
            if len(self.fields) > _MAX_FIELDS:
                raise InvalidInput("the multipart form has too many fields")

    def _end(self) -> None:
        self._is_ended = True


async def read_form(
    request: Request, sink: Sink, *, limit_bytes: int, max_files: int = 1, max_field_bytes: int = MAX_FIELD_BYTES
) -> FormReader:
    """Read the request's form to its end, parsing in a worker thread.

    A client that is refused while it sends often cannot read the answer. So an error is raised only
    after the rest of the body was read and dropped, up to ``limit_bytes`` more; but at once where the
    client waits for leave to send (Expect: 100-continue).

    Args:
        limit_bytes: of all files together.
        max_field_bytes: of each field beside them.

    Raises:
        FileTooLarge: by the request's own account; nothing was read of it.
        InvalidInput: this is not a multipart form, or it is malformed.
        ClientDisconnect: the client left before the end.
        ServiceError: whatever the sink raises.
    """
    body = request.stream()
    try:
        _check_head(request, limit_bytes)
        content_type = request.headers.get("content-type", "")
        reader = FormReader(content_type, sink, max_files=max_files, max_field_bytes=max_field_bytes)
        await _feed(reader, body)
        return reader
    except ServiceError:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(body, limit_bytes + FRAMING_BYTES)
        raise


def _check_head(request: Request, limit_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes + FRAMING_BYTES:
        raise FileTooLarge(limit_bytes)
    if "content-encoding" in request.headers:
        raise InvalidInput("the body must be sent as it is, without Content-Encoding")


async def _feed(reader: FormReader, body: AsyncGenerator[bytes, None]) -> None:
    batch = bytearray()
    async for chunk in body:
        batch += chunk
        if len(batch) >= _BATCH_BYTES or not chunk:  # the last chunk is empty
            await run_in_threadpool(reader.feed, bytes(batch))
            batch.clear()


async def _drain(body: AsyncGenerator[bytes, None], most_bytes: int) -> None:
    dropped_bytes = 0
    with anyio.move_on_after(_DRAIN_S):
        async for chunk in body:
            dropped_bytes += len(chunk)
            if dropped_bytes > most_bytes:
                return
