"""`loramill export-model --format`: has a worker make and try an export, waits for it, and brings it here."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import typer
from rich.console import Console

from app.cli.client import Client, export_download
from app.cli.models.receiving import Wanted, receive, require_free
from app.cli.progress import counting
from core.errors import StartRefused
from core.jobs.status import TERMINAL, JobStatus
from core.serving.adapter_format import FileDigest, digest_file

POLL_S: Final = 1.0


def make_export(
    client: Client, model: str, target: Path, body: Mapping[str, str], *, wait: Callable[[float], None] = time.sleep
) -> None:
    """Export a model in a format, and download the result as `receive` does; an interrupt cancels the export.

    Args:
        body: the request's fields.

    Raises:
        StartRefused: the API refuses it, the export fails, or what came is not whole.
    """
    require_free(target)
    console = Console(stderr=True)
    export = client.create_export(model, dict(body))
    console.print(f"export {export['id']}", highlight=False)
    try:
        export = _wait(client, export["id"], console, wait)
    except KeyboardInterrupt:
        export = client.cancel_export(export["id"])
    if export["status"] == JobStatus.FAILED:
        raise StartRefused(f"export {export['id']} failed: {export['error']['message']}")
    if export["status"] != JobStatus.SUCCEEDED:
        raise StartRefused(f"export {export['id']} was cancelled")
    files = {file["name"]: FileDigest(sha256=file["sha256"], bytes=file["bytes"]) for file in export["files"]}
    wanted = Wanted(export["id"], export_download(export["id"]), _plain(files), partial(_verify, files))
    receive(client, wanted, target, wait=wait)
    typer.echo(f"{model} is in {target}. {export['text']}")


def _wait(client: Client, export_id: str, console: Console, wait: Callable[[float], None]) -> dict[str, Any]:
    began_s = time.monotonic()
    with counting(console, "export: seconds") as show:
        while True:
            export = client.export(export_id)
            if export["status"] in TERMINAL:
                return export
            progress = export["progress"] or {}
            told = export["waiting_reason"] or progress.get("phase") or export["status"]
            show(round(time.monotonic() - began_s), None, told)
            wait(POLL_S)


def _plain(names: Mapping[str, FileDigest]) -> frozenset[str]:
    """Leave out names that lead out of a folder, whoever gave them."""
    return frozenset(
        name for name in names if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    )


def _verify(files: Mapping[str, FileDigest], folder: Path) -> None:
    wrong = [name for name, listed in files.items() if digest_file(folder / name) != listed]
    if wrong:
        raise StartRefused(f"what was downloaded is damaged: {', '.join(wrong)} is not what the export made")
