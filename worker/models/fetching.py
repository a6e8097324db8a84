"""Takes a base model's files from its source, checks them, and puts them on the disk.

Sources are a hub repository, a folder, or a GGUF file in a package (``worker.models.gguf``). Nothing that could run
code is taken. Knows no lock, and not where the folder goes.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2
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
    compute_fingerprint,
    read_config,
    stable_config,
    weight_files,
)
from core.errors import BaseModelInvalid
from core.process.durability import wait_for_disk
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


def fetch(entry: BaseModelEntry, partial: Path, base_models_folder: Path) -> None:
    """Put the files of a registered base model into ``partial``; a download that breaks off goes on next time.

    Raises:
        BaseModelInvalid: the source cannot be had, or is not what a base model can be imported from.
    """
    match entry.source:
        case GgufPackage():
            convert(entry.source, partial)
        case Folder(path=path):
            take(path, partial, shutil.copyfile)
        case Hub():
            # outside the scratch folder, so that an interrupted download goes on where it stopped
            download = base_models_folder / f".{entry.name}.download"
            _download(entry.source, download)
            take(download, partial, Path.rename)
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


def take(source: Path, target: Path, put: Callable[[Path, Path], Any]) -> None:
    """Take what a causal language model needs and nothing that could run code: no pickles, no Python files.

    Args:
        put: brings one file to its new path.

    Raises:
        BaseModelInvalid: ``source`` is not what a base model can be imported from.
    """
    if not source.is_dir():
        raise BaseModelInvalid(f"{source} is not a folder")
    config = read_config(source)
    _check_config(source, config)
    for path in (*_find_weights(source), _find_tokenizer(source)):
        put(path, target / path.name)
    for name in TAKEN_WHERE_PRESENT:
        if (source / name).is_file():
            put(source / name, target / name)
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


def seal(entry: BaseModelEntry, partial: Path) -> ImportedModel:
    """Check the new folder, write ``loramill.json`` into it, and put all of it on the disk.

    Raises:
        BaseModelInvalid: its content is not what the registry expects, or cannot be trained.
    """
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
            wait_for_disk(path)
    wait_for_disk(partial)
    return imported


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


def keep_reference(partial: Path, imported: ImportedModel) -> None:
    """Have transformers, which is at hand here, say what engines without it hold their own blocks against."""
    reference = take_reference(partial)
    if reference is not None:
        write_reference(partial / BESIDE_MODEL, imported.fingerprint, reference)
        wait_for_disk(partial)
