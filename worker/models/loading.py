"""Loads a base model's folder into transformers' modules: offline, safetensors only, no remote code.

What a folder must hold and how its fingerprint is made is ``core.base_models.registry``; how an engine takes a base
model, often without transformers, is ``serving``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from core.base_models.registry import DType, read_imported
from core.errors import BaseModelInvalid
from core.jobs.spec import Quantization
from core.text.tokenizer import TextTokenizer
from worker.models.precision import choose_device, resolve_dtype
from worker.models.quantization import quantized

# transformers computes these two in plain Python, one tensor per operation. The fused function is the
# same formula, about ten times faster, and keeps one activation for backward instead of six.
UNFUSED_TANH_GELU = frozenset({"gelu_new", "gelu_fast"})
FUSED_TANH_GELU = "gelu_pytorch_tanh"

_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class LoadedModel:
    """A frozen base model in evaluation mode with the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: TextTokenizer
    context_tokens: int
    fingerprint: str
    device: torch.device
    dtype: torch.dtype


def load_base_model(
    folder: Path,
    *,
    dtype: DType = "auto",
    quantization: Quantization | None = None,
    device: torch.device | None = None,
) -> LoadedModel:
    """Load the model that was imported into ``folder``.

    Args:
        device: None: the GPU where there is one.
        quantization: how the linear layers beside the head are kept; ``dtype`` is what they are computed in.

    Raises:
        QuantizationUnavailable: this machine cannot do it.
        BaseModelInvalid: the folder is missing, incomplete, or transformers cannot read it.
    """
    imported = read_imported(folder)
    tokenizer = TextTokenizer.from_folder(folder)
    device = device or choose_device()
    resolved = resolve_dtype(dtype)
    kept = {} if quantization is None else quantized(quantization, resolved)
    model = load_causal_model(folder, read_model_config(folder), resolved, **kept)
    if quantization is None:  # else the weights are on the GPU already, and must not be converted
        nn.Module.to(model, device)
    return LoadedModel(model, tokenizer, imported.context_tokens, imported.fingerprint, device, resolved)


def read_model_config(folder: Path) -> PretrainedConfig:
    """Give a base model's config as its model is computed by us.

    Raises:
        BaseModelInvalid: transformers cannot read it.
    """
    config: PretrainedConfig
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _not_loaded(folder, error) from error
    if getattr(config, "hidden_act", None) in UNFUSED_TANH_GELU:
        config.hidden_act = FUSED_TANH_GELU
    # The embedding would take the pad token for its padding_idx, and pad is often the closing token.
    config.pad_token_id = None
    config.use_cache = False
    return config


def load_causal_model(folder: Path, config: PretrainedConfig, dtype: torch.dtype, **kept: Any) -> PreTrainedModel:
    """Load a model of this config on the CPU, frozen; ``kept`` are further words for ``from_pretrained``.

    Raises:
        BaseModelInvalid: the folder does not hold all that the config asks for.
    """
    disable_progress_bar()  # it would write into the process's log
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else its error names none
            **kept,
        )
    except _LOADING_ERRORS as error:
        raise _not_loaded(folder, error) from error
    model: PreTrainedModel
    model, report = loaded
    absent = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if absent:  # transformers would go on with random numbers
        raise BaseModelInvalid(
            f"{folder} lacks {len(absent)} of the model's tensors, or has them in another shape, {absent[0]} among them"
        )
    model.requires_grad_(False)
    model.eval()
    _disable_dropout(model)
    return model


def _not_loaded(folder: Path, error: Exception) -> BaseModelInvalid:
    return BaseModelInvalid(f"{folder} cannot be loaded as a causal language model: {error}")


def _disable_dropout(model: nn.Module) -> None:
    """Make train() harmless: a frozen base has nothing to regularise, and its noise would only slow LoRA down."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):  # of some models it is a module
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - nn.Module types its attributes as tensors
