"""`loramill export-model`: brings a fine-tuned model out of a deployment, as a folder that PEFT loads or as a tar.

Goes on where an earlier try broke off. Nothing stands at the target before every file's digest was found right.
"""

import glob
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import typer

from app.cli.client import Client
from core.errors import AdapterInvalid, RangeNotSatisfiable, StartRefused
from core.serving.adapter_format import FILES, MANIFEST, digest_file, parse_manifest

TRIES: Final = 5  # in a row that bring nothing
_WAIT_S: Final = 1.0
_MEMBERS: Final = frozenset({*FILES, MANIFEST, "README.md"})


def export_model(client: Client, model: str, target: Path) -> None:
    """Download a model as `fetch_model` does, and say so."""
    fetch_model(client, model, target)
    typer.echo(f"{model} is in {target}")


def fetch_model(client: Client, model: str, target: Path, *, wait: Callable[[float], None] = time.sleep) -> None:
    """Download a model to a path, where nothing may be: as a tar where it ends in ``.tar``, else as a folder.

    Raises:
        StartRefused: the API refuses it or cannot be reached, the target is there, or what came is not whole.
    """
    if target.exists():
        raise StartRefused(f"{target} is there already; name a path that is not")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _receive(client, model, target, wait).path
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        incoming.mkdir()
        _unpack(part, incoming)
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


def _receive(client: Client, model: str, target: Path, wait: Callable[[float], None]) -> _Part:
    """Give all bytes of the download."""
    failures, arrived = 0, 0
    while True:
        try:
            return _receive_rest(client, model, target)
        except httpx2.TransportError as error:
            part = _Part.find(target)
            failures = failures + 1 if part is None or part.bytes <= arrived else 1
            arrived = arrived if part is None else part.bytes
            if failures == TRIES:
                raise StartRefused(
                    f"the download of {model} broke off ({error}); the same command goes on from there"
                ) from error
        wait(_WAIT_S)


def _receive_rest(client: Client, model: str, target: Path) -> _Part:
    """Fetch what is missing, in one request."""
    part = _Part.find(target)
    etag, arrived = (None, 0) if part is None else (part.etag, part.bytes)
    with client.downloading(model, etag, arrived) as response:
        if part is not None and response.status_code == RangeNotSatisfiable.status:
            return part  # an earlier try ended behind the last byte
        goes_on = response.status_code == 206
        if part is not None and not goes_on:
            part.path.unlink()  # the beginning of what the model no longer is
        if part is None or not goes_on:
            part = _Part.begin(target, response.headers["etag"])
        with part.path.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
    return part


def _unpack(archive: Path, folder: Path) -> None:
    """Write an archive's files into a folder, and hold them against the manifest among them."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name not in _MEMBERS:
                    raise StartRefused(f"{member.name!r} is no file that a model's download has")
                with (folder / member.name).open("xb") as file:
                    shutil.copyfileobj(content, file)
        files = parse_manifest((folder / MANIFEST).read_bytes()).files
        wrong = [name for name, listed in files.items() if digest_file(folder / name) != listed]
    except (tarfile.TarError, AdapterInvalid, FileNotFoundError, FileExistsError) as error:
        raise StartRefused(f"what was downloaded is no model: {error}") from error
    if wrong:
        raise StartRefused(f"what was downloaded is damaged: {', '.join(wrong)} is not what the manifest names")
