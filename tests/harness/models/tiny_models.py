"""Tiny base models with random weights, as `loramill base-models import` would leave them.

Two layers each, byte-level tokenizer, deterministic: the same call gives the same weights.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint, read_imported
from tests.harness.models.byte_tokenizer import END_OF_TEXT, write_byte_tokenizer

CONTEXT_TOKENS = 256
# Ten times the usual: under a frozen head of small weights no adapter could make a token likely.
INITIAL_STD = 0.2
VOCAB_ROWS = 320  # more than the tokenizer has ids, as in Phi-2


def write_tiny_phi(folder: Path, *, seed: int = 0) -> Path:
    """Write a Phi with rotary on 40 % of a head's width, an untied head and a head bias that is not zero."""
    torch.manual_seed(seed)
    model = PhiForCausalLM(
        PhiConfig(
            vocab_size=VOCAB_ROWS,
            hidden_size=80,  # head width 20, of which 0.4 * 20 = 8 rotate: that must be an even integer
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_act="gelu_new",
            max_position_embeddings=CONTEXT_TOKENS,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.4},
            resid_pdrop=0.1,  # as Phi-2's config has it; training must not apply it
            initializer_range=INITIAL_STD,
            tie_word_embeddings=False,
            bos_token_id=END_OF_TEXT,
            eos_token_id=END_OF_TEXT,
        )
    )
    torch.nn.init.normal_(model.lm_head.bias, std=0.5)
    return save_as_imported(model, folder, "tiny-phi")


def write_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write a Llama with grouped key-value heads and a tied head."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_ROWS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_TOKENS,
            initializer_range=INITIAL_STD,
            tie_word_embeddings=True,
            bos_token_id=END_OF_TEXT,
            eos_token_id=END_OF_TEXT,
            pad_token_id=END_OF_TEXT,  # as many published folders have it
        )
    )
    with torch.no_grad():  # transformers starts the pad token's row at zero, and here that is the closing token's too
        torch.nn.init.normal_(model.lm_head.weight[END_OF_TEXT], std=INITIAL_STD)
    return save_as_imported(model, folder, "tiny-llama")


def write_tiny_qwen2(folder: Path, *, seed: int = 0) -> Path:
    """Write a Qwen2 with grouped key-value heads, an untied head and biases of queries, keys and values, none zero."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB_ROWS,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_TOKENS,
            initializer_range=INITIAL_STD,
            tie_word_embeddings=False,
            bos_token_id=END_OF_TEXT,
            eos_token_id=END_OF_TEXT,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):  # transformers starts them at zero
            torch.nn.init.normal_(parameter, std=0.5)
    return save_as_imported(model, folder, "tiny-qwen2")


def store_in(kind: torch.dtype, folder: Path) -> Path:
    """Store an imported model's weights as numbers of another type, as most published ones are of 16 bits."""
    path = folder / "model.safetensors"
    save_file({name: tensor.to(kind) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    imported = read_imported(folder).model_copy(update={"fingerprint": compute_fingerprint(folder)})
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return folder


def save_as_imported(model: PreTrainedModel, folder: Path, name: str, *, context_tokens: int = CONTEXT_TOKENS) -> Path:
    """Write a model as an import would leave it, but for what transformers says of it."""
    disable_progress_bar()
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    imported = ImportedModel(
        name=name,
        fingerprint=compute_fingerprint(folder),
        source=Folder(path=folder.absolute()),
        context_tokens=context_tokens,
    )
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return folder
