"""Writes GGUF files: a base model with an adapter in its weights, or the adapter alone.

Tensor by tensor, so that a model larger than the memory can be written. What of a model a file says is
``gguf_metadata``'s and ``gguf_vocabulary``'s; reading it back is ``gguf_reading``'s.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape, quantize
from torch import Tensor

from core.text.tokenizer import TextTokenizer
from worker.exporter.gguf_metadata import TENSOR_TYPES, add_lora, add_model, add_shape
from worker.exporter.gguf_names import GgufNames
from worker.exporter.gguf_vocabulary import add_vocabulary
from worker.exporter.merging import LayerFactors

_Q8_0_BLOCK = 32  # numbers that share a scale; a row of another width stays in float16, as llama.cpp's own has it

ReadTensor = Callable[[str], Tensor]


def write_model(
    path: Path,
    name: str,
    type_: str,
    *,
    names: GgufNames,
    config: dict[str, Any],
    tokenizer: TextTokenizer,
    shapes: Mapping[str, tuple[int, ...]],
    read: ReadTensor,
) -> None:
    """Write a whole model.

    Args:
        type_: one of `TENSOR_TYPES`, for matrices; all else is in float32.
        shapes: of the tensors that are written, by transformers' names.
        read: gives one of them in float32.
    """
    with _open(path, names) as writer:
        add_model(writer, name, type_)
        add_shape(writer, names.architecture, config)
        add_vocabulary(writer, tokenizer, config["vocab_size"])
        types = {each: _type_of(shape, TENSOR_TYPES[type_]) for each, shape in shapes.items()}
        _write(
            writer,
            {each: (names.name_of(each), shape, types[each]) for each, shape in shapes.items()},
            lambda each: names.rows_to_gguf(each, read(each)),
        )


def write_lora(path: Path, name: str, *, names: GgufNames, factors: Mapping[str, LayerFactors]) -> None:
    """Write an adapter alone, in float32.

    A pair is scaled by the file's one alpha over its rank. What a pair is to be scaled by beside that, with rsLoRA or
    scales by patterns, is in its factor B.
    """
    first = next(iter(factors.values()))
    alpha = first.scale * first.a_RI.shape[0]
    tensors: dict[str, Tensor] = {}
    named: dict[str, tuple[str, tuple[int, ...], GGMLQuantizationType]] = {}
    for layer, pair in factors.items():
        rest = pair.scale * pair.a_RI.shape[0] / alpha
        weight = f"{layer}.weight"
        for part, tensor in (
            ("lora_a", pair.a_RI),
            ("lora_b", names.rows_to_gguf(weight, pair.b_OR if rest == 1 else pair.b_OR * rest)),
        ):
            tensors[f"{layer}.{part}"] = tensor
            named[f"{layer}.{part}"] = (
                f"{names.name_of(weight)}.{part}",
                tuple(tensor.shape),
                GGMLQuantizationType.F32,
            )
    with _open(path, names) as writer:
        add_lora(writer, name, alpha)
        _write(writer, named, tensors.__getitem__)


@contextmanager
def _open(path: Path, names: GgufNames) -> Iterator[GGUFWriter]:
    writer = GGUFWriter(path, names.architecture.gguf)
    try:
        yield writer
    finally:
        writer.close()


def _type_of(shape: tuple[int, ...], type_: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    if type_ is GGMLQuantizationType.Q8_0 and shape[-1] % _Q8_0_BLOCK:
        return GGMLQuantizationType.F16
    return type_


def _write(
    writer: GGUFWriter, named: Mapping[str, tuple[str, tuple[int, ...], GGMLQuantizationType]], read: ReadTensor
) -> None:
    """Write the head, and then one tensor after the other."""
    for name, shape, type_ in named.values():
        stored = quant_shape_to_byte_shape(shape, type_)
        size_bytes = int(np.prod(stored))
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), size_bytes, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for each, (_, _, type_) in named.items():
        numbers = read(each).to(torch.float32).contiguous().numpy()
        writer.write_tensor_data(np.ascontiguousarray(quantize(numbers, type_)).view(np.uint8))
