"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side behind one norm, with biases everywhere."""

from typing import Final

from core.base_models.architectures.architecture import Architecture

PHI: Final = Architecture(
    model_type="phi",
    norm="layer",
    attention_norm="input_layernorm",
    mlp_norm=None,
    final_norm="final_layernorm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_out="self_attn.dense",
    mlp_in=("mlp.fc1",),
    mlp_out="mlp.fc2",
    activation="gelu_tanh",
    gguf="phi2",
    activation_module="mlp.activation_fn",
    other_blocks=("qk_layernorm",),
)
