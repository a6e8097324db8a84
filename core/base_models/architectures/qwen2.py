"""Qwen2 and Qwen2.5 (2407.10671): Llama's block, with biases on queries, keys and values."""

from dataclasses import replace
from typing import Final

from core.base_models.architectures.llama import LLAMA

QWEN2: Final = replace(
    LLAMA, model_type="qwen2", gguf="qwen2", gguf_pairs_rows=False, other_blocks=("use_sliding_window",)
)
