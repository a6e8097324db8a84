"""Which adapters can be exported in which format, by what config, tokenizer and base model say; no weight is read."""

import json
from pathlib import Path

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.table import find_architecture
from core.base_models.registry import read_config
from core.exports.spec import ExportFormat, GgufType
from core.serving.peft_config import LoraConfig
from core.text.pre_tokenizers import find_gguf_name
from core.text.tokenizer import TextTokenizer


def find_obstacle(
    format_: ExportFormat,
    type_: GgufType | None,
    *,
    base_model_folder: Path,
    tokenizer: TextTokenizer,
    lora: LoraConfig,
    quantization: str | None,
) -> str | None:
    """Say why an adapter cannot be exported so; None: nothing is in the way.

    Args:
        quantization: of the base model that the adapter was trained on.

    Raises:
        BaseModelInvalid: the base model's config cannot be read.
    """
    takes_weights = format_ == "merged" or (format_ == "gguf" and type_ != "lora")
    if takes_weights and quantization is not None:
        return (
            f"it was trained on the base model in {quantization}, and its whole weights are others, so merged into "
            "them it is another model; export the adapter alone (peft)"
        )
    if format_ == "vllm":
        return _find_for_vllm(lora)
    if format_ != "gguf":
        return None
    if type_ == "lora" and lora.use_dora:
        return "it is a DoRA, and a LoRA in GGUF has no place for the lengths that it learnt; export gguf f16 or merged"
    return _find_for_gguf(base_model_folder, None if type_ == "lora" else tokenizer)


def gguf_architecture(base_model_folder: Path) -> Architecture | None:
    """Find the architecture of a base model whose blocks have names in GGUF that are known here.

    Raises:
        BaseModelInvalid: the base model's config cannot be read.
    """
    return find_architecture(read_config(base_model_folder))


def gguf_pre_tokenizer(tokenizer: TextTokenizer) -> str | None:
    """Find GGUF's name for how a tokenizer cuts texts before it merges; None: it has none that is known here."""
    return find_gguf_name(json.loads(tokenizer.to_json()))


def _find_for_vllm(lora: LoraConfig) -> str | None:
    if lora.use_dora:
        return "it is a DoRA, which vLLM does not compute; export it merged"
    if lora.rank_pattern or lora.alpha_pattern:
        return "it has ranks or scales by patterns, which vLLM does not compute; export it merged"
    return None


def _find_for_gguf(base_model_folder: Path, tokenizer: TextTokenizer | None) -> str | None:
    """Say what of a base model GGUF has no words for; None for the tokenizer: it is not written."""
    config = read_config(base_model_folder)
    if gguf_architecture(base_model_folder) is None:
        kind = config.get("model_type", "unknown")
        return (
            f"the tensors of the architecture {kind!r}, as its config has it, have no names in GGUF that are known here"
        )
    if tokenizer is None:
        return None
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        return f"its positions are scaled ({rope.get('rope_type', 'rope_scaling')}), which is not written to GGUF here"
    if gguf_pre_tokenizer(tokenizer) is None:
        return "its tokenizer cuts texts in a way that has no name in GGUF that is known here; export it merged"
    return None
