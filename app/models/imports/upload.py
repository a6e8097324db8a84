"""Takes the files of an import as they arrive. They never have a name on disk, so none is left behind, however it ends.

What they are is ``archive``'s and ``adapter_parts``' matter.
"""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from app.models.imports.archive import ArchivedFile, is_archive, list_files
from core.errors import FileTooLarge, ImportRefused
from core.serving.adapter_format import FILES, MANIFEST
from core.serving.strict_json import shown
from core.store.blobs import refusing_when_full


@dataclass(frozen=True)
class _Arrived:
    name: str
    content: BinaryIO


class ImportUpload:
    """The files of one request. Blocking: it writes to disk, so it belongs into a worker thread."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Begin. ``limit_bytes`` is of all files together, and again of what they are unpacked to."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._left_bytes = limit_bytes
        self._opened = ExitStack()
        self._arrived: list[_Arrived] = []

    def begin(self, filename: str) -> None:
        """Take a file's name, of which the last part counts.

        Raises:
            StorageFull: the disk has no room for a file.
        """
        name = PurePosixPath(filename.replace("\\", "/")).name or "file"
        self._arrived.append(_Arrived(name, self._scratch()))

    def write(self, data: bytes) -> None:
        """Take the file's next bytes.

        Raises:
            FileTooLarge: these exceed the limit.
            StorageFull: the disk did not take them.
        """
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise FileTooLarge(self._limit_bytes)
        with refusing_when_full():
            self._arrived[-1].content.write(data)

    @property
    def filename(self) -> str:
        """The name of the first file."""
        return self._arrived[0].name

    def files(self) -> list[ArchivedFile]:
        """List what was sent: the files of the one archive, or the adapter's own files.

        Raises:
            ImportRefused: an archive is malformed or unsafe, or a file is none of an adapter's.
            StorageFull: there is no room to unpack it.
        """
        with refusing_when_full():
            for arrived in self._arrived:
                arrived.content.flush()
            if len(self._arrived) == 1 and is_archive(self._arrived[0].content):
                return list_files(self._arrived[0].content, self._scratch, self._limit_bytes)
            return [self._own_file(arrived) for arrived in self._arrived]

    def close(self) -> None:
        """Drop everything that was sent."""
        self._opened.close()

    def _own_file(self, arrived: _Arrived) -> ArchivedFile:
        if arrived.name not in (*FILES, MANIFEST):
            raise ImportRefused(
                f"{shown(arrived.name)} is neither an archive by itself nor one of {', '.join((*FILES, MANIFEST))}"
            )
        if sum(other.name == arrived.name for other in self._arrived) > 1:
            raise ImportRefused(f"there is {arrived.name} twice")
        size_bytes = arrived.content.seek(0, os.SEEK_END)
        return ArchivedFile(arrived.name, size_bytes, partial(_rewound, arrived.content))

    def _scratch(self) -> BinaryIO:
        """Make a file without a name."""
        with refusing_when_full():
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the upload
        return cast(BinaryIO, self._opened.enter_context(file))


def _rewound(content: BinaryIO) -> BinaryIO:
    content.seek(0)
    return content
