"""TRL's SFTTrainer on the benchmark's rows, pre-tokenised: at its defaults, tuned, and packing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.training.adapters import load_with_adapter
from benchmarks.training.hf_trainer import Timing, common_arguments
from benchmarks.training.measurement import MeasurementRequest, StepClock
from benchmarks.training.rows import TokenRow
from worker.models.precision import resolve_dtype

PACKED_TO: Final = 1280  # about eight rows of the generated lengths


@dataclass(frozen=True)
class TrlRecipe:
    """How somebody sets SFTTrainer up.

    Attributes:
        loads_fp32: the base is in float32 whatever is computed in, as TRL loads one that it is given by name.
        options: its own arguments.
    """

    loads_fp32: bool = False
    options: dict[str, Any] = field(default_factory=dict)


RECIPES: Final = {
    "trl_default": TrlRecipe(loads_fp32=True, options={"train_sampling_strategy": "sequential"}),
    "trl_tuned": TrlRecipe(options={"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}),
    # a step is one pack
    "trl_packing": TrlRecipe(
        options={
            "gradient_checkpointing": False,
            "packing": True,
            "packing_strategy": "bfd",
            "max_length": PACKED_TO,
            "per_device_train_batch_size": 1,
        }
    ),
}


def make_trainer(
    request: MeasurementRequest, rows: Sequence[TokenRow], model: Any, output: Path, callbacks: list[Any]
) -> Any:
    """Set SFTTrainer up for the request's recipe.

    ``completion_only_loss`` is what it would choose by itself for texts of prompt and completion; it is given
    ids, so that all trainers have the same.
    """
    disable_progress_bars()
    features = [{"input_ids": list(row.ids), "completion_mask": row.completion_mask} for row in rows]
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            **common_arguments(request, output) | RECIPES[request.trainer].options,
            bf16=resolve_dtype(request.dtype) == torch.bfloat16,
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(features),
        processing_class=AutoTokenizer.from_pretrained(request.base, local_files_only=True),
        callbacks=callbacks,
    )


def train(request: MeasurementRequest, rows: Sequence[TokenRow], clock: StepClock, adapter: Path) -> None:
    """Train one epoch, and leave the adapter in a folder."""
    loads_fp32 = RECIPES[request.trainer].loads_fp32
    model = load_with_adapter(request, torch.float32 if loads_fp32 else resolve_dtype(request.dtype))
    make_trainer(request, rows, model, adapter / "output", [Timing(clock)]).train()
    model.save_pretrained(adapter, save_embedding_layers=False)
