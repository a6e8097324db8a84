"""A base model with adapters as PEFT's users load them, whose answers no end token ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from torch import nn

from benchmarks.training.adapters import load

BASE: Final = "__base__"  # PEFT's own name for rows without an adapter


def load_adapters(
    base: Path, adapters: Mapping[str, Path], dtype: torch.dtype, *, vocabulary: int | None = None
) -> Any:
    """Load a base model with adapters by name; with none it is transformers' own.

    Args:
        vocabulary: how many ids are tokens, where the head has rows that are none; None: it has no such rows.
    """
    model: Any = load(base, dtype).eval()
    model.generation_config.eos_token_id = None
    if vocabulary is not None:
        _cut_head(model, vocabulary)
    for number, (name, folder) in enumerate(adapters.items()):
        if number == 0:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name, autocast_adapter_dtype=False)
        else:
            model.load_adapter(str(folder), adapter_name=name, autocast_adapter_dtype=False)
    return model.eval()


def _cut_head(model: Any, vocabulary: int) -> None:
    """Let the head give logits of tokens alone; an embedding that was tied to it stays as it is."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight[:vocabulary].detach().clone(), requires_grad=False)
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[:vocabulary].detach().clone(), requires_grad=False)
    head.out_features = model.config.vocab_size = vocabulary
