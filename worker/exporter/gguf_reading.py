"""Reads GGUF files back into transformers' modules, in float32: what a file says, whoever wrote it.

The shape comes from the file's own metadata and from nowhere else, so that what is said wrongly is computed wrongly.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from gguf import GGMLQuantizationType, GGUFReader, Keys
from gguf.quants import dequantize
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

from core.base_models.architectures.table import ARCHITECTURES
from core.errors import ExportDiffers
from core.exports.spec import Rounding
from worker.exporter.gguf_names import GgufNames

ROUNDINGS: Final[dict[GGMLQuantizationType, Rounding]] = {
    GGMLQuantizationType.F32: "none",
    GGMLQuantizationType.F16: "f16",
    GGMLQuantizationType.BF16: "bf16",
    GGMLQuantizationType.Q8_0: "q8_0",
}
_CONFIGS: Final[dict[str, Callable[..., PretrainedConfig]]] = {
    "llama": LlamaConfig,
    "phi2": PhiConfig,
    "qwen2": Qwen2Config,
}


class GgufFile:
    """One file, its tensors mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        said = self.get(Keys.General.ARCHITECTURE)
        known = next((one for one in ARCHITECTURES if one.gguf == said), None)
        if known is None:
            raise ExportDiffers(f"the file is of the architecture {said!r}, which no base model here has")
        self.architecture = known

    def get(self, key: str, default: Any = None) -> Any:
        """Give what stands under one of GGUF's keys, ``{arch}`` being the file's own architecture."""
        if "{arch}" in key:
            key = key.format(arch=self.architecture.gguf)
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def rounding(self, name: str) -> Rounding:
        """Tell how the numbers of a tensor, by GGUF's name, are stored."""
        return ROUNDINGS[GGMLQuantizationType(self._tensors[name].tensor_type)]

    def read(self, name: str) -> Tensor:
        """Give a tensor by GGUF's name, in float32.

        Raises:
            ExportDiffers: the file has none of this name.
        """
        if name not in self._tensors:
            raise ExportDiffers(f"the file has no tensor {name}")
        stored = self._tensors[name]
        numbers = dequantize(stored.data, GGMLQuantizationType(stored.tensor_type))
        return torch.from_numpy(numbers.copy()).reshape(tuple(int(size) for size in reversed(stored.shape)))


def read_names(file: GgufFile) -> GgufNames:
    """Give what the tensors of a whole model's file are called."""
    heads = file.get(Keys.Attention.HEAD_COUNT)
    return GgufNames(file.architecture, file.get(Keys.LLM.BLOCK_COUNT), heads, file.get(Keys.Attention.HEAD_COUNT_KV))


def read_model(file: GgufFile) -> tuple[PreTrainedModel, dict[str, Rounding]]:
    """Give the model that a file holds, and how each of its tensors is stored, by transformers' names.

    Raises:
        ExportDiffers: it lacks a tensor of its own shape, or has others.
    """
    names = read_names(file)
    model = AutoModelForCausalLM.from_config(_config_of(file), dtype=torch.float32)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    called = {name: names.name_of(name) for name in shapes}
    extra = sorted(tensor.name for tensor in file.reader.tensors if tensor.name not in called.values())
    if extra:
        raise ExportDiffers(f"the file has the tensor {extra[0]}, which its architecture has not")
    state = {name: names.rows_from_gguf(name, file.read(called[name])) for name in shapes}
    _require_shapes(state, shapes)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    model.eval()
    return model, {name: file.rounding(called[name]) for name in shapes}


def _require_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    wrong = next((name for name, tensor in state.items() if tensor.shape != shapes[name]), None)
    if wrong is not None:
        raise ExportDiffers(f"tensor {wrong} has the shape {list(state[wrong].shape)}, not {list(shapes[wrong])}")


def _config_of(file: GgufFile) -> PretrainedConfig:
    heads, width = file.get(Keys.Attention.HEAD_COUNT), file.get(Keys.LLM.EMBEDDING_LENGTH)
    head_width = file.get(Keys.Attention.KEY_LENGTH, width // heads)
    rotated = file.get(Keys.Rope.DIMENSION_COUNT)
    rope = {"rope_type": "default", "rope_theta": float(file.get(Keys.Rope.FREQ_BASE))}
    said: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": file.get(Keys.LLM.FEED_FORWARD_LENGTH),
        "num_hidden_layers": file.get(Keys.LLM.BLOCK_COUNT),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get(Keys.Attention.HEAD_COUNT_KV),
        "max_position_embeddings": file.get(Keys.LLM.CONTEXT_LENGTH),
        "vocab_size": len(file.get(Keys.Tokenizer.LIST)),
        "tie_word_embeddings": "output.weight" not in file,
        "use_cache": False,
    }
    if file.architecture.gguf == "phi2":
        rope["partial_rotary_factor"] = rotated / head_width
        said |= {"layer_norm_eps": file.get(Keys.Attention.LAYERNORM_EPS), "hidden_act": "gelu_pytorch_tanh"}
        said |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0}
    else:
        said |= {"rms_norm_eps": file.get(Keys.Attention.LAYERNORM_RMS_EPS), "head_dim": head_width}
        said |= {"attention_bias": "blk.0.attn_q.bias" in file, "mlp_bias": "blk.0.ffn_up.bias" in file}
    return _CONFIGS[file.architecture.gguf](**said, rope_parameters=rope)


def read_lora_deltas(file: GgufFile, names: GgufNames, layers: list[str]) -> dict[str, Tensor]:
    """Give what an adapter's file adds to each of some layers' weights, by llama.cpp's rule for the scale.

    Raises:
        ExportDiffers: it is no adapter, lacks a layer, or has another one.
    """
    if (file.get(Keys.General.TYPE), file.get(Keys.Adapter.TYPE)) != ("adapter", "lora"):
        raise ExportDiffers("the file does not say that it is a LoRA adapter")
    called = {layer: names.name_of(f"{layer}.weight") for layer in layers}
    wanted = {f"{name}.{part}" for name in called.values() for part in ("lora_a", "lora_b")}
    extra = sorted(tensor.name for tensor in file.reader.tensors if tensor.name not in wanted)
    if extra:
        raise ExportDiffers(f"the file has the tensor {extra[0]}, which the adapter has not")
    alpha = file.get(Keys.Adapter.LORA_ALPHA)
    deltas = {}
    for layer, name in called.items():
        a_RI, b_OR = file.read(f"{name}.lora_a"), file.read(f"{name}.lora_b")
        delta_OI = alpha / a_RI.shape[0] * (b_OR @ a_RI)
        deltas[layer] = names.rows_from_gguf(f"{layer}.weight", delta_OI)
    return deltas
