"""Writes an export's files in each format, into a folder of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from core.exports.spec import ExportSpec
from core.serving.adapter_format import CONFIG, FILES, MANIFEST, WEIGHTS
from worker.exporter.gguf_files import write_lora, write_model
from worker.exporter.modelfile import MODELFILE, write_modelfile
from worker.exporter.safetensors_file import write_tensors
from worker.exporter.subject import Subject

MODEL_GGUF: Final = "model.gguf"
ADAPTER_GGUF: Final = "adapter.gguf"
MODEL_SAFETENSORS: Final = "model.safetensors"
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
_DTYPES: Final = {"bf16": (torch.bfloat16, "bfloat16"), "fp32": (torch.float32, "float32")}

Writer = Callable[[Subject, Path], None]


def writer_of(spec: ExportSpec) -> Writer:
    """Give what writes the format."""
    match spec.format:
        case "peft":
            return write_peft
        case "vllm":
            return write_vllm
        case "merged":
            return write_merged
        case "gguf":
            return write_gguf_lora if spec.type == "lora" else write_gguf


def write_peft(subject: Subject, folder: Path) -> None:
    """Write PEFT's two files and the manifest, as they are stored."""
    for name in (*FILES, MANIFEST):
        shutil.copyfile(subject.adapter_folder / name, folder / name)


def write_vllm(subject: Subject, folder: Path) -> None:
    """Write the folder that a vLLM server is told to load: named by the adapter's digest, it never changes."""
    inner = folder / subject.spec.adapter.adapter_sha256
    inner.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(subject.adapter_folder / name, inner / name)


def write_merged(subject: Subject, folder: Path) -> None:
    """Write a folder that transformers loads as any model's."""
    assert subject.spec.dtype is not None, "resolved when the export was made"
    dtype, called = _DTYPES[subject.spec.dtype]
    write_tensors(folder / MODEL_SAFETENSORS, subject.shapes, dtype, subject.merged)
    config = {key: value for key, value in subject.config.items() if key != "torch_dtype"} | {"dtype": called}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (subject.base_folder / name).is_file():
            shutil.copyfile(subject.base_folder / name, folder / name)
    shutil.copyfile(subject.adapter_folder / MANIFEST, folder / MANIFEST)


def write_gguf(subject: Subject, folder: Path) -> None:
    """Write a whole model as GGUF, and a Modelfile beside it."""
    assert subject.spec.type is not None, "resolved when the export was made"
    is_tied = bool(subject.config.get("tie_word_embeddings"))
    shapes = {name: shape for name, shape in subject.shapes.items() if not (is_tied and name == "lm_head.weight")}
    write_model(
        folder / MODEL_GGUF,
        subject.spec.model,
        subject.spec.type,
        names=subject.gguf_names,
        config=subject.config,
        tokenizer=subject.tokenizer,
        shapes=shapes,
        read=subject.merged,
    )
    _write_beside(subject, folder, MODEL_GGUF, is_adapter=False)


def write_gguf_lora(subject: Subject, folder: Path) -> None:
    """Write the adapter alone as GGUF, and a Modelfile beside it."""
    write_lora(folder / ADAPTER_GGUF, subject.spec.model, names=subject.gguf_names, factors=subject.factors)
    _write_beside(subject, folder, ADAPTER_GGUF, is_adapter=True)


def _write_beside(subject: Subject, folder: Path, file: str, *, is_adapter: bool) -> None:
    modelfile = write_modelfile(file, subject.manifest, subject.tokenizer, is_adapter=is_adapter)
    (folder / MODELFILE).write_text(modelfile, encoding="utf-8")
    shutil.copyfile(subject.adapter_folder / MANIFEST, folder / MANIFEST)
