"""Opens what was written, in each format, as whoever uses it would: nothing is taken from what it was made of.

Gives the tensors that came back and the model that they make, for ``comparing``. What beside numbers must be the
adapter's, such as the tokens that end an answer, is refused here where it is not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.base_models.tensor_files import list_tensors
from core.errors import ExportDiffers
from core.exports.spec import ExportSpec, Rounding
from core.serving.adapter_format import FILES, digest_file
from core.text.tokenizer import TextTokenizer
from worker.exporter.gguf_reading import GgufFile, read_lora_deltas, read_model
from worker.exporter.gguf_vocabulary import require_same_vocabulary
from worker.exporter.oracle import load_base, merged_by_peft, with_adapter
from worker.exporter.subject import Subject
from worker.exporter.writers import ADAPTER_GGUF, MODEL_GGUF, MODEL_SAFETENSORS
from worker.models.loading import load_causal_model, read_model_config
from worker.models.stored_weights import StoredWeights


@dataclass(frozen=True)
class WrittenTensor:
    """A tensor as it was read back, in float32, and how its numbers are stored."""

    name: str
    values: Tensor
    rounding: Rounding


@dataclass(frozen=True)
class Reopened:
    """``tensors`` and ``model`` load when they are called, so that not both need be in memory."""

    tensors: Callable[[], Iterator[WrittenTensor]]
    model: Callable[[], Any]


def reopen(subject: Subject, folder: Path) -> Reopened:
    """Open a written result.

    Raises:
        ExportDiffers: something of it is not the adapter's.
        BaseModelInvalid: transformers cannot load it.
    """
    return _opener_of(subject.spec)(subject, folder)


def _opener_of(spec: ExportSpec) -> Callable[[Subject, Path], Reopened]:
    match spec.format:
        case "peft":
            return _reopen_adapter
        case "vllm":
            return lambda subject, folder: _reopen_adapter(subject, folder / subject.spec.adapter.adapter_sha256)
        case "merged":
            return _reopen_merged
        case "gguf":
            return _reopen_lora if spec.type == "lora" else _reopen_gguf


def _reopen_adapter(subject: Subject, folder: Path) -> Reopened:
    wrong = [name for name in FILES if digest_file(folder / name) != subject.manifest.files[name]]
    if wrong:
        raise ExportDiffers(f"{wrong[0]} does not have the bytes that the adapter's manifest names")

    def tensors() -> Iterator[WrittenTensor]:
        state = merged_by_peft(with_adapter(load_base(subject.base_folder), folder)).state_dict()
        return (WrittenTensor(name, state[name], "none") for name in sorted(subject.adapted))

    return Reopened(tensors, lambda: with_adapter(load_base(subject.base_folder), folder))


def _reopen_merged(subject: Subject, folder: Path) -> Reopened:
    _require_same_tokenizer(TextTokenizer.from_folder(folder), subject.tokenizer)
    path = folder / MODEL_SAFETENSORS
    names = {tensor.name for tensor in list_tensors(path)}
    if names != subject.shapes.keys():
        raise ExportDiffers(f"the file's tensors are not the base model's: {sorted(names ^ subject.shapes.keys())[0]}")
    weights = StoredWeights(folder, torch.device("cpu"))

    def tensors() -> Iterator[WrittenTensor]:
        for name in sorted(names):
            yield WrittenTensor(name, weights.read(name, torch.float32), subject.spec.rounding)

    return Reopened(tensors, lambda: load_causal_model(folder, read_model_config(folder), torch.float32))


def _reopen_gguf(subject: Subject, folder: Path) -> Reopened:
    file = GgufFile(folder / MODEL_GGUF)
    texts = [subject.tokenizer.decode(prompt.ids, skip_special=False) for prompt in subject.spec.prompts]
    require_same_vocabulary(file.reader, subject.tokenizer, texts)

    def tensors() -> Iterator[WrittenTensor]:
        model, roundings = read_model(file)
        state = model.state_dict()
        return (WrittenTensor(name, state[name], rounding) for name, rounding in roundings.items())

    return Reopened(tensors, lambda: read_model(file)[0])


def _reopen_lora(subject: Subject, folder: Path) -> Reopened:
    file = GgufFile(folder / ADAPTER_GGUF)
    layers = sorted(subject.factors)
    deltas = read_lora_deltas(file, subject.gguf_names, layers)

    def tensors() -> Iterator[WrittenTensor]:
        for layer, delta_OI in deltas.items():
            yield WrittenTensor(f"{layer}.weight", subject.base(f"{layer}.weight") + delta_OI, "none")

    def model() -> Any:
        base = load_base(subject.base_folder)
        for layer, delta_OI in deltas.items():
            linear: Any = base.get_submodule(layer)
            linear.weight.data += delta_OI
        return base

    return Reopened(tensors, model)


def _require_same_tokenizer(written: TextTokenizer, own: TextTokenizer) -> None:
    """Refuse a folder that cuts, begins or ends texts otherwise."""
    if written.eos_id != own.eos_id or written.end_ids != own.end_ids:
        raise ExportDiffers(
            f"the folder ends answers with tokens {sorted(written.end_ids)}, and the adapter was trained with "
            f"{sorted(own.end_ids)}"
        )
    same = ("digest", "prefix_ids", "chat_template")
    other = next((name for name in same if getattr(written, name) != getattr(own, name)), None)
    if other is not None:
        raise ExportDiffers(f"the folder's tokenizer has another {other} than the base model's")
