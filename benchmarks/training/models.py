"""The base model with random weights that trainers are compared on, in a folder that all of them load.

``python -m benchmarks.training.models SHAPE FOLDER`` writes one; the same call gives the same weights.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmarks.training.rows import CLOSING_ID
from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint

CLOSING_TEXT: Final = "<|endoftext|>"


@dataclass(frozen=True)
class PhiShape:
    """What decides how much a Phi computes. A head's width times ``rotary_share`` must be an even integer."""

    layers: int
    width: int
    heads: int
    rotary_share: float
    vocabulary: int = 51_200
    context_tokens: int = 2048


SHAPES: Final = {
    "phi-8x1024": PhiShape(layers=8, width=1024, heads=16, rotary_share=0.5),
    "phi-2": PhiShape(layers=32, width=2560, heads=32, rotary_share=0.4),
    "phi-2-widths": PhiShape(layers=2, width=2560, heads=32, rotary_share=0.4),  # where Phi-2 itself is too large
    "phi-tiny": PhiShape(layers=2, width=64, heads=2, rotary_share=0.5, vocabulary=512),  # to try the benchmark itself
}


def phi_config(shape: PhiShape) -> PhiConfig:
    """Give transformers' description of the shape: Phi-2's own, but for the sizes and its dropout."""
    return PhiConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        hidden_act="gelu_new",
        max_position_embeddings=shape.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": shape.rotary_share},
        resid_pdrop=0.0,  # Phi-2 has 0.1, and then no two trainers would have the same loss
        tie_word_embeddings=False,
        bos_token_id=CLOSING_ID,
        eos_token_id=CLOSING_ID,
        pad_token_id=None,
    )


def write_base(folder: Path, shape: PhiShape, *, seed: int, device: str = "cpu") -> None:
    """Write weights in bfloat16, so that a trainer in float32 has the same ones."""
    disable_progress_bar()
    torch.manual_seed(seed)
    with torch.device(device):
        model = PhiForCausalLM(phi_config(shape))
        torch.nn.init.normal_(model.lm_head.bias, std=0.02)
    nn.Module.to(model, torch.bfloat16).save_pretrained(folder)
    _write_tokenizer(folder)
    imported = ImportedModel(
        name="random-phi",
        fingerprint=compute_fingerprint(folder),
        source=Folder(path=folder.absolute()),
        context_tokens=shape.context_tokens,
    )
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json(), "utf-8")


def _write_tokenizer(folder: Path) -> None:
    """Write one of single bytes that no row passes through: TRL and our loader want to know the closing token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=CLOSING_TEXT, pad_token=CLOSING_TEXT)
    assert wrapped.eos_token_id == CLOSING_ID
    wrapped.save_pretrained(folder)


def main() -> None:
    """Write the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_base(options.folder, SHAPES[options.shape], seed=options.seed, device=device)


if __name__ == "__main__":
    main()
