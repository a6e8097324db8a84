"""`loramill export-model`: brings a fine-tuned model out of a deployment, as a folder that PEFT loads or as a tar.

Nothing stands at the target before every file's digest was found right.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import typer

from app.cli.client import Client, model_download
from app.cli.models.receiving import Wanted, receive
from core.errors import AdapterInvalid, StartRefused
from core.serving.adapter_format import FILES, MANIFEST, digest_file, parse_manifest

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
    receive(client, Wanted(model, model_download(model), _MEMBERS, _verify), target, wait=wait)


def _verify(folder: Path) -> None:
    """Hold the files against the manifest among them."""
    try:
        files = parse_manifest((folder / MANIFEST).read_bytes()).files
    except AdapterInvalid as error:
        raise StartRefused(f"what was downloaded is no model: {error}") from error
    wrong = [name for name, listed in files.items() if digest_file(folder / name) != listed]
    if wrong:
        raise StartRefused(f"what was downloaded is damaged: {', '.join(wrong)} is not what the manifest names")
