"""Base models of which only the shapes matter: their weights are zeros, and no model library writes them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]

# A Llama of one block under a tied head, of which nothing but the shapes is ever read.
TINY_LLAMA: Shapes = {
    "model.embed_tokens.weight": (320, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "model.layers.0.self_attn.o_proj.weight": (16, 16),
    "model.layers.0.post_attention_layernorm.weight": (16,),
    "model.layers.0.mlp.gate_proj.weight": (32, 16),
    "model.layers.0.mlp.up_proj.weight": (32, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 32),
    "model.norm.weight": (16,),
}

# A Phi of one block: attention and MLP read one norm, and the head is its own matrix.
TINY_PHI: Shapes = {
    "lm_head.bias": (320,),
    "lm_head.weight": (320, 16),
    "model.embed_tokens.weight": (320, 16),
    "model.final_layernorm.weight": (16,),
    "model.layers.0.input_layernorm.bias": (16,),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.mlp.fc1.weight": (64, 16),
    "model.layers.0.mlp.fc2.weight": (16, 64),
    "model.layers.0.self_attn.dense.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (16, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.v_proj.weight": (16, 16),
}


def write_shapes(folder: Path, shapes: Shapes, config: Mapping[str, object] = {}) -> None:
    """Write a base model's config and a weight file of zeros with these tensors, in bfloat16."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
    written = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
