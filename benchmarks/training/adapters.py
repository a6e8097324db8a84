"""LoRA on a base model as PEFT's users put it there, for our peers and for the scorer.

Ours is put there by ``worker.training.model.lora``.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.training.measurement import MeasurementRequest
from benchmarks.training.rows import IGNORE_INDEX, TokenRow

RANK, ALPHA = 16, 32


def load(folder: Path, dtype: torch.dtype) -> Any:
    """Load a base model as transformers' examples do."""
    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.to(device)


def load_with_adapter(request: MeasurementRequest, dtype: torch.dtype) -> Any:
    """Load the request's base with a new adapter, whose start values are those of ours."""
    model = load(request.base_folder, dtype)
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(request.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(request.seed)
    return get_peft_model(model, config)


def score(base: Path, adapter: Path | None, rows: tuple[TokenRow, ...]) -> float:
    """Give nats per completion token, in float32, row by row: the same for every trainer, ours included."""
    model = load(base, torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    nll = 0.0
    for row in rows:
        ids_1T = torch.tensor([row.ids], device=model.device)
        labels_T = torch.tensor(row.labels[1:], device=model.device)
        with torch.inference_mode():
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits_TV, labels_T, ignore_index=IGNORE_INDEX, reduction="sum")
        nll += loss.item()
    return nll / sum(row.trained_tokens for row in rows)
