"""Receives a tar from a deployment, unpacks it beside its target and has it verified before anything stands there.

Goes on where an earlier try broke off. What is in the tar, and what verifies it, is each command's matter.
"""

import glob
import shutil
import tarfile
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import httpx2

from app.cli.client import Client
from core.errors import RangeNotSatisfiable, StartRefused

TRIES: Final = 5  # in a row that bring nothing
_WAIT_S: Final = 1.0


@dataclass(frozen=True)
class Wanted:
    """A tar to be received.

    Attributes:
        what: it is, in messages.
        path: under which the API has it.
        members: names that it may have; each is a plain relative path.
        verify: raises StartRefused, or FileNotFoundError, where the folder it was unpacked to is not whole.
    """

    what: str
    path: str
    members: Container[str]
    verify: Callable[[Path], None]


def require_free(target: Path) -> None:
    """Refuse a target that something is at.

    Raises:
        StartRefused: something is.
    """
    if target.exists():
        raise StartRefused(f"{target} is there already; name a path that is not")


def receive(client: Client, wanted: Wanted, target: Path, *, wait: Callable[[float], None] = time.sleep) -> None:
    """Bring a tar to a path, where nothing may be: as it is where that ends in ``.tar``, else unpacked into a folder.

    Raises:
        StartRefused: the API refuses it or cannot be reached, the target is there, or what came is not whole.
    """
    require_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _receive(client, wanted, target, wait).path
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        incoming.mkdir()
        _unpack(part, incoming, wanted)
        (part if target.suffix == ".tar" else incoming).rename(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Part:
    """What has arrived of a download. It lies beside the target, and its name tells of what it is the beginning."""

    path: Path

    @classmethod
    def find(cls, target: Path) -> "_Part | None":
        found = sorted(target.parent.glob(f".{glob.escape(target.name)}.*.part"))
        return cls(found[0]) if found else None

    @classmethod
    def begin(cls, target: Path, etag: str) -> "_Part":
        digest = etag.strip('"')
        return cls(target.with_name(f".{target.name}.{digest}.part"))

    @property
    def etag(self) -> str:
        return f'"{self.path.suffixes[-2][1:]}"'

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def _receive(client: Client, wanted: Wanted, target: Path, wait: Callable[[float], None]) -> _Part:
    """Give all bytes of the download."""
    failures, arrived = 0, 0
    while True:
        try:
            return _receive_rest(client, wanted, target)
        except httpx2.TransportError as error:
            part = _Part.find(target)
            failures = failures + 1 if part is None or part.bytes <= arrived else 1
            arrived = arrived if part is None else part.bytes
            if failures == TRIES:
                raise StartRefused(
                    f"the download of {wanted.what} broke off ({error}); the same command goes on from there"
                ) from error
        wait(_WAIT_S)


def _receive_rest(client: Client, wanted: Wanted, target: Path) -> _Part:
    """Fetch what is missing, in one request."""
    part = _Part.find(target)
    etag, arrived = (None, 0) if part is None else (part.etag, part.bytes)
    with client.downloading(wanted.path, etag, arrived) as response:
        if part is not None and response.status_code == RangeNotSatisfiable.status:
            return part  # an earlier try ended behind the last byte
        goes_on = response.status_code == 206
        if part is not None and not goes_on:
            part.path.unlink()  # the beginning of what it no longer is
        if part is None or not goes_on:
            part = _Part.begin(target, response.headers["etag"])
        with part.path.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
    return part


def _unpack(archive: Path, folder: Path, wanted: Wanted) -> None:
    """Write an archive's files into a folder, and have them verified."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name not in wanted.members:
                    raise StartRefused(f"{member.name!r} is no file that the download of {wanted.what} has")
                path = folder / PurePosixPath(member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    shutil.copyfileobj(content, file)
        wanted.verify(folder)
    except (tarfile.TarError, FileNotFoundError, FileExistsError) as error:
        raise StartRefused(f"what was downloaded is not {wanted.what}: {error}") from error
