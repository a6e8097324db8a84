"""Has transformers say what `reference.Reference` holds, of a base model whose blocks have a descriptor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.table import find_architecture
from worker.models.loading import load_causal_model, read_model_config
from worker.models.reference import BLOCKS, FIRST_BLOCK, PROBED_BLOCKS, PROBES, BlockNumbers, Reference

# Of which the angles do not depend on how long a text is.
_FIXED_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})


def take_reference(folder: Path) -> Reference | None:
    """Load a base model's first blocks in float32 and compute what follows the probes, a second or a few.

    None for a model that is not computed by our own blocks: there is no descriptor, or an option that is not known.

    Raises:
        BaseModelInvalid: transformers cannot load it.
    """
    config = read_model_config(folder)
    block = find_architecture(config.to_dict())
    if block is None or (config.rope_parameters or {}).get("rope_type", "default") not in _FIXED_ROTATIONS:
        return None
    layers = config.num_hidden_layers
    _keep_first_blocks(config)
    with _no_warnings(), torch.inference_mode():
        # the tensors of the other blocks are left where they are, which is what it would warn of
        model = load_causal_model(folder, config, torch.float32)
        if not isinstance(model.get_output_embeddings(), nn.Linear):
            return None
        logits = [model(input_ids=torch.tensor([probe]), logits_to_keep=1).logits[0, -1] for probe in PROBES]
    rotation: Any = model.get_submodule("model.rotary_emb")
    return Reference(_numbers(model, block, layers), rotation.inv_freq.float(), torch.stack(logits))


def _keep_first_blocks(config: PretrainedConfig) -> None:
    kept = min(PROBED_BLOCKS, config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = kept
    if kinds is not None:
        config.layer_types = kinds[:kept]


def _numbers(model: PreTrainedModel, block: Architecture, layers: int) -> BlockNumbers:
    config: Any = model.config
    attention: Any = model.get_submodule(f"{FIRST_BLOCK}self_attn")
    norm: Any = model.get_submodule(f"{FIRST_BLOCK}{block.attention_norm}")
    rotation: Any = model.get_submodule("model.rotary_emb")
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return BlockNumbers(
        layers=layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        attention_scale=attention.scaling,
        norm_epsilon=norm.variance_epsilon if block.norm == "rms" else norm.eps,
        rotation_scale=rotation.attention_scaling,
        is_tied=is_tied,
        shapes={
            name: tuple(tensor.shape)
            for name, tensor in model.state_dict().items()
            if (not name.startswith(BLOCKS) or name.startswith(FIRST_BLOCK))
            and not (is_tied and name == "lm_head.weight")
        },
    )


@contextmanager
def _no_warnings() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
