"""Llama (2302.13971) and what is built like it: attention, then a gated MLP, each behind a norm of its own."""

from typing import Final

from core.base_models.architectures.architecture import Architecture

LLAMA: Final = Architecture(
    model_type="llama",
    norm="rms",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    final_norm="norm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_out="self_attn.o_proj",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    activation="gated_silu",
    gguf="llama",
    gguf_pairs_rows=True,
)
