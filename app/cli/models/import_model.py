"""`loramill import-model`: makes a model of an adapter that was trained elsewhere, in a folder or an archive."""

from pathlib import Path

import typer

from app.cli.client import Client
from core.errors import StartRefused
from core.serving.adapter_format import FILES, MANIFEST


def import_model(
    client: Client, source: Path, *, base_model: str | None, prompt_format: str | None, suffix: str | None
) -> None:
    """Send an adapter, and say by which name it can be asked.

    Args:
        source: a tar, a tar.gz or a zip, or the folder that PEFT saved.
        prompt_format: the path of a file with the two templates as JSON, or "raw"; None: the manifest tells.

    Raises:
        StartRefused: the API refuses it or cannot be reached, or the folder holds no adapter.
    """
    written = prompt_format if prompt_format in (None, "raw") else Path(str(prompt_format)).read_text("utf-8")
    fields = {"base_model": base_model, "prompt_format": written, "suffix": suffix}
    model = client.import_model(_files_of(source), {name: said for name, said in fields.items() if said is not None})
    typer.echo(f"{source} can be asked as {model['id']}")
    if model["rendering"] == "unverified":
        typer.echo(
            "unverified rendering: no prompts of its training are known, so whether they are fed as in training is not"
        )
    if model["ignored_files"]:
        typer.echo(f"not read: {', '.join(model['ignored_files'])}")


def _files_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = [source / name for name in (*FILES, MANIFEST) if (source / name).is_file()]
    if not files:
        raise StartRefused(f"{source} has no {', '.join(FILES)}; name the folder that PEFT saved, or an archive of it")
    return files
