"""What a GGUF file says of a model beside its tensors and its vocabulary: the shape, by GGUF's own keys.

The keys are the ``gguf`` package's; which of them llama.cpp wants is what its own converter writes.
"""

from typing import Any, Final

from gguf import GGMLQuantizationType, GGUFType, GGUFWriter, Keys, LlamaFileType

from core.base_models.architectures.architecture import Architecture

TENSOR_TYPES: Final = {
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
_FILE_TYPES: Final = {
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_QUANTIZATION_VERSION: Final = 2


def add_model(writer: GGUFWriter, name: str, file_type: str) -> None:
    """Say that the file is a whole model, of this name and with numbers of this type."""
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[file_type])
    writer.add_quantization_version(_QUANTIZATION_VERSION)


def add_lora(writer: GGUFWriter, name: str, alpha: float) -> None:
    """Say that the file is a LoRA adapter; llama.cpp scales each pair by ``alpha`` over its own rank."""
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)


def add_shape(writer: GGUFWriter, architecture: Architecture, config: dict[str, Any]) -> None:
    """Say what the blocks are like."""
    heads = int(config["num_attention_heads"])
    key_heads = config.get("num_key_value_heads")
    width = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads if key_heads is None else key_heads)
    if width * heads != config["hidden_size"]:
        writer.add_key_length(width)
        writer.add_value_length(width)
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    writer.add_rope_dimension_count(width if share is None else int(width * share))
    writer.add_rope_freq_base(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    if architecture.norm == "rms":
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
