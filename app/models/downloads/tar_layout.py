"""The tar that an adapter is downloaded as: where each byte of it comes from, before any of them is read.

Equal members give equal bytes, wherever and whenever: they have no owner, no time and one order. Knows neither adapters
nor who reads the archive.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from core.serving.adapter_format import FileDigest

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK_BYTES)  # two blocks of zeros close an archive

Source = bytes | FileDigest  # bytes as they are, or those that are stored under a digest


@dataclass(frozen=True)
class ArchivePart:
    """Some bytes of one source, from ``begin`` to before ``end``."""

    source: Source
    begin: int
    end: int


class TarLayout:
    """An archive of plain files, in the order in which they are given."""

    def __init__(self, members: Iterable[tuple[str, Source]]) -> None:
        self._sources = [*_sources(members), _END]
        self._ends = list(accumulate(map(_bytes_of, self._sources)))

    @property
    def bytes(self) -> int:
        return self._ends[-1]

    @property
    def etag(self) -> str:
        """Give what archives of the same bytes have in common, and no two others: HTTP's strong validator."""
        digest = hashlib.sha256(b"loramill tar 1\n")
        for source in self._sources:
            sha256 = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else source.sha256
            digest.update(f"{_bytes_of(source)} {sha256}\n".encode())
        return f'"{digest.hexdigest()}"'

    def parts(self, start: int, stop: int) -> Iterator[ArchivePart]:
        """Give what the archive's bytes from ``start`` to before ``stop`` are made of."""
        for source, end in zip(self._sources, self._ends, strict=True):
            begin = end - _bytes_of(source)
            if begin < stop and end > start:
                yield ArchivePart(source, max(start, begin) - begin, min(stop, end) - begin)


def _sources(members: Iterable[tuple[str, Source]]) -> Iterator[Source]:
    for name, source in members:
        header = tarfile.TarInfo(name)  # of mode 644, without owner or time
        header.size = _bytes_of(source)
        yield header.tobuf(tarfile.PAX_FORMAT)  # plain ustar, but for more than 8 GiB
        yield source
        yield bytes(-header.size % _BLOCK_BYTES)


def _bytes_of(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.bytes
