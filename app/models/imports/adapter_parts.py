"""Which of the files that were sent make up the adapter: PEFT's two, and the manifest that Loramill writes.

What they hold is ``verification``'s matter, where they come from ``archive``'s or the form's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from app.models.imports.archive import ArchivedFile, refusing_malformed
from core.errors import ImportRefused
from core.serving.adapter_format import CONFIG, MANIFEST, MANIFEST_LIMIT_BYTES, WEIGHTS
from core.serving.peft_config import CONFIG_LIMIT_BYTES
from core.serving.strict_json import shown

# Of files that are programs when they are read: they are not read here, and whoever sends them should know.
PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


@dataclass(frozen=True)
class AdapterParts:
    """An adapter's files as they were sent. ``ignored`` are the names of the others, which nobody reads."""

    config: bytes
    weights: ArchivedFile
    manifest: bytes | None
    ignored: tuple[str, ...]


def choose_parts(files: Sequence[ArchivedFile]) -> AdapterParts:
    """Find the one adapter among files, in whichever folder it lies.

    Raises:
        ImportRefused: there is none, more than one, or a file of a kind that runs when it is read.
    """
    by_path = {PurePosixPath(file.name): file for file in files}
    for path in by_path:
        if path.suffix.lower() in PICKLES:
            raise ImportRefused(
                f"{shown(str(path))} is a pickle, which can run whatever is in it; only safetensors are taken, "
                "so convert the weights and leave this file out"
            )
    configs = [path for path in by_path if path.name == CONFIG]
    if len(configs) != 1:
        found = "no" if not configs else "more than one"
        raise ImportRefused(f"there is {found} {CONFIG}; send one adapter as PEFT saves it")
    folder = configs[0].parent
    weights = by_path.get(folder / WEIGHTS)
    if weights is None:
        raise ImportRefused(f"there is no {WEIGHTS} beside {CONFIG}")
    manifest = by_path.get(folder / MANIFEST)
    taken = {configs[0], folder / WEIGHTS, folder / MANIFEST}
    return AdapterParts(
        config=_read(by_path[configs[0]], CONFIG_LIMIT_BYTES),
        weights=weights,
        manifest=None if manifest is None else _read(manifest, MANIFEST_LIMIT_BYTES),
        ignored=tuple(str(path) for path in by_path if path not in taken),
    )


def _read(file: ArchivedFile, limit_bytes: int) -> bytes:
    if file.bytes > limit_bytes:
        raise ImportRefused(f"{shown(file.name)} has {file.bytes:,} bytes, {limit_bytes:,} are allowed")
    with refusing_malformed(), file.open() as content:
        read = content.read(limit_bytes + 1)
    if len(read) != file.bytes:
        raise ImportRefused(f"{shown(file.name)} has another size than the archive says")
    return read
