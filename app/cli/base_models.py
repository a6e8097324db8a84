"""`loramill base-models`: list, add and verify. Importing is the worker's side, which ``app.cli.stack`` starts."""

import json
from pathlib import Path

import typer
from pydantic import ValidationError

from app.cli.columns import align
from core.base_models.registry import (
    BaseModelEntry,
    Folder,
    GgufPackage,
    Hub,
    Registry,
    compute_fingerprint,
    folder_of,
    read_imported,
)
from core.errors import BaseModelInvalid, SettingsInvalid
from core.process.writable import require_writable
from core.settings import Settings


def show(settings: Settings, as_json: bool) -> str:
    """Describe every base model of the registry, in registry order."""
    rows = [_describe(settings, entry_name) for entry_name in Registry.load(settings.base_models_folder).names]
    if as_json:
        return json.dumps(rows, indent=2)
    header = ("name", "served", "imported", "context", "fingerprint", "source")
    cells = [
        (
            str(row["name"]),
            "yes" if row["served"] else "no",
            "yes" if row["imported"] else "no",
            str(row["context_tokens"] or "-"),
            str(row["fingerprint"] or "-")[:12],
            str(row["source"]),
        )
        for row in rows
    ]
    return align([header, *cells])


def _describe(settings: Settings, name: str) -> dict[str, object]:
    entry = Registry.load(settings.base_models_folder).get(name)
    folder = folder_of(settings.base_models_folder, name)
    imported = read_imported(folder) if folder.exists() else None
    return {
        "name": name,
        "source": describe_source(entry),
        "served": name in settings.base_models,
        "imported": imported is not None,
        "context_tokens": imported.context_tokens if imported else None,
        "fingerprint": imported.fingerprint if imported else entry.fingerprint,
    }


def describe_source(entry: BaseModelEntry) -> str:
    """Name where a base model comes from."""
    match entry.source:
        case Hub(id=repository, revision=revision):
            return f"hub {repository} at {revision[:12]}"
        case Folder(path=path):
            return f"folder {path}"
        case GgufPackage(package=package, file=file):
            return f"{file} in package {package}"


def add(
    settings: Settings,
    name: str,
    *,
    hub: str | None,
    revision: str | None,
    folder: Path | None,
    learning_rate: float | None,
) -> None:
    """Add an entry to the operator's file.

    Raises:
        SettingsInvalid: the options do not make one.
        StartRefused: the folder of base models cannot be written.
    """
    if (hub is None) == (folder is None) or (hub is None) != (revision is None):
        raise SettingsInvalid("give either --hub with --revision, or --folder")
    source = {"id": hub, "revision": revision} if hub else {"path": folder.absolute() if folder else None}
    fields = {"name": name, "source": source} | ({"learning_rate": learning_rate} if learning_rate is not None else {})
    try:
        entry = BaseModelEntry.model_validate(fields)
    except ValidationError as error:
        # of the union of sources, the problems of the kind that was given
        kind = "Hub" if hub else "Folder"
        first = next(e for e in error.errors() if "source" not in e["loc"] or kind in e["loc"])
        raise SettingsInvalid(f"{first['loc'][-1]}: {first['msg']}") from error
    require_writable(settings.base_models_folder)
    Registry.load(settings.base_models_folder).add(entry)
    typer.echo(f"added {name}; now run `loramill base-models import {name}` and name it in LORAMILL_BASE_MODELS")


def verify(settings: Settings, names: list[str], as_json: bool) -> bool:
    """Compare the imported base models with their fingerprints, tell each result, and give whether all agree."""
    registry = Registry.load(settings.base_models_folder)
    for name in names:
        registry.get(name)
    chosen = names or [n for n in registry.names if folder_of(settings.base_models_folder, n).exists()]
    problems = {name: find_damage(settings, name) for name in chosen}
    if as_json:
        rows = [{"name": name, "verified": problem is None, "problem": problem} for name, problem in problems.items()]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for name, problem in problems.items():
            typer.echo(f"{name}: {problem or 'verified'}")
    return not any(problems.values())


def find_damage(settings: Settings, name: str) -> str | None:
    """Say what is wrong with an imported base model; None when its files are what was imported."""
    folder = folder_of(settings.base_models_folder, name)
    try:
        recorded = read_imported(folder).fingerprint
        found = compute_fingerprint(folder)
    except BaseModelInvalid as error:
        return str(error)
    if found == recorded:
        return None
    return (
        f"its files have the fingerprint {found[:12]}, but {recorded[:12]} was imported; "
        f"remove {folder} and run `loramill base-models import {name}`"
    )
