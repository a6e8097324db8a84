"""Brings a registered base model into the base-models folder, whole or not at all.

Run as ``python -m worker.models.importing``. How its files are had and checked is ``worker.models.fetching``, which
loads transformers; what is there already is found without. The result's layout is ``core.base_models.registry``.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from core.base_models.registry import (
    BaseModelEntry,
    Folder,
    ImportedModel,
    Registry,
    folder_of,
    read_imported,
)
from core.errors import BaseModelInvalid, ServiceError
from core.process.durability import wait_for_disk


def import_base_model(base_models_folder: Path, name: str) -> bool:
    """Import a base model; give False when it is there already, from the same source.

    Safe to run several times at once: one imports, the others wait and then find it there.

    Raises:
        ModelNotFound: the registry has no such name.
        BaseModelInvalid: the source cannot be had, or is not what the registry expects.
    """
    entry = Registry.load(base_models_folder).get(name)
    base_models_folder.mkdir(parents=True, exist_ok=True)
    target = folder_of(base_models_folder, name)
    with FileLock(base_models_folder / f".{name}.lock"):
        if target.exists():
            _check_same(entry, target)
            return False
        # its libraries take seconds to import, and most calls find the model there
        from worker.models.fetching import fetch, keep_reference, seal

        # '~' is in no name, so these are what a killed import of this very model left
        for leftover in base_models_folder.glob(f".{name}~*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=f".{name}~", dir=base_models_folder) as scratch:
            partial = Path(scratch) / "model"
            partial.mkdir()
            fetch(entry, partial, base_models_folder)
            imported = seal(entry, partial)
            keep_reference(partial, imported)
            partial.rename(target)
        wait_for_disk(base_models_folder)
    return True


def link_folder(source: Path, target: Path) -> ImportedModel:
    """Make an imported folder out of links into another, for a process that uses a model where it lies.

    Its weights are read once, for their fingerprint. ``source`` stays as it is.

    Args:
        target: a new folder, which is of no use once ``source`` has changed.

    Raises:
        BaseModelInvalid: ``source`` is not what a base model can be imported from.
    """
    from worker.models.fetching import seal, take

    source = source.absolute()
    target.mkdir()
    take(source, target, lambda path, link: link.symlink_to(path))
    return seal(BaseModelEntry(name=_name_of(source), source=Folder(path=source)), target)


def _name_of(folder: Path) -> str:
    """Give a folder's name in the letters that base models' names have; a name may not begin with a dot or a dash."""
    letters = re.sub(r"[^a-z0-9._-]", "-", folder.name.lower())
    return letters.lstrip("._-")[:64] or "model"


def _check_same(entry: BaseModelEntry, target: Path) -> None:
    imported = read_imported(target)
    if imported.source != entry.source or entry.fingerprint not in (None, imported.fingerprint):
        raise BaseModelInvalid(
            f"{target} was imported from another source than the registry names now; "
            "move it away and import again (adapters trained on it need the old one)"
        )


def main(arguments: list[str]) -> int:
    """Import the base model named on the command line; 0 when it is there afterwards."""
    parser = argparse.ArgumentParser(prog="python -m worker.models.importing", description="Import a base model.")
    parser.add_argument("--folder", type=Path, required=True, help="the base-models folder")
    parser.add_argument("name", help="the base model's name in the registry")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    try:
        imported = import_base_model(folder, options.name)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.name}: {'imported into' if imported else 'already in'} {folder_of(folder, options.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
