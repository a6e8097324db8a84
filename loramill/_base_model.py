"""Finds a base model by the name that the registry has for it, or by its folder.

How models are imported is ``worker.models.importing``; what an imported folder holds, ``core.base_models.registry``.
"""

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.base_models.registry import (
    IMPORTED_FILE,
    BaseModelEntry,
    Folder,
    ImportedModel,
    Registry,
    folder_of,
    read_imported,
)
from core.settings import load_settings


@dataclass(frozen=True)
class LoadableBaseModel:
    """A base model that can be loaded from ``folder``."""

    entry: BaseModelEntry
    folder: Path
    imported: ImportedModel


def find_base_model(base: str | Path) -> LoadableBaseModel:
    """Give the base model of a name or folder; a registered one that is not imported yet is imported first.

    A name of the registry (of LORAMILL_HOME, ``var`` by default) goes before a folder of the same name, which
    ``./name`` stands for.

    Raises:
        ModelNotFound: there is neither a registered model nor a folder of this name.
        BaseModelInvalid: it cannot be had, or is no base model.
    """
    models = load_settings().base_models_folder
    registry = Registry.load(models)
    if str(base) not in registry.names and Path(base).is_dir():
        return _in_place(Path(base).resolve())
    entry = registry.get(str(base))
    folder = folder_of(models, entry.name)
    if not folder.exists():
        # here and below: what imports a model loads torch, which nobody needs to look at labels
        from worker.models.importing import import_base_model

        import_base_model(models, entry.name)
    return LoadableBaseModel(entry, folder, read_imported(folder))


def _in_place(folder: Path) -> LoadableBaseModel:
    if (folder / IMPORTED_FILE).exists():
        imported, usable = read_imported(folder), folder
    else:
        files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
        imported, usable = _linked(folder, tuple(files))
    return LoadableBaseModel(BaseModelEntry(name=imported.name, source=Folder(path=folder)), usable, imported)


# a folder's files by size and time, so that one that was written anew is read anew
@lru_cache(maxsize=8)
def _linked(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[ImportedModel, Path]:
    from worker.models.importing import link_folder

    usable = Path(tempfile.mkdtemp(dir=_scratch().name)) / "model"
    return link_folder(folder, usable), usable


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Give the folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="loramill-base-models-")
