"""transformers' Trainer on the benchmark's rows: as the question that Loramill answers has it, and at its best."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.training.adapters import load_with_adapter
from benchmarks.training.measurement import MeasurementRequest, StepClock
from benchmarks.training.rows import TokenRow
from worker.models.precision import resolve_dtype

PADDED_TO: Final = 2048


@dataclass(frozen=True)
class HfRecipe:
    """How somebody sets the Trainer up; in bfloat16, over a base in it and with autocast.

    Attributes:
        copies_labels: every row is padded to `PADDED_TO`, and its labels are a copy, padding included.
        sampling: ``sequential`` trains on the rows in the order in which ours does.
    """

    copies_labels: bool = False
    sampling: str = "sequential"


RECIPES: Final = {
    "seed": HfRecipe(copies_labels=True),
    "hf_fp32": HfRecipe(),
    "hf_best": HfRecipe(sampling="group_by_length"),
}


class Timing(TrainerCallback):
    """Tells the clock when steps begin and end."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.end_step()


def make_features(rows: Sequence[TokenRow], recipe: HfRecipe, pad_id: int) -> list[dict[str, list[int]]]:
    """Give what the collator gets for each row."""
    if not recipe.copies_labels:
        return [
            {"input_ids": list(row.ids), "attention_mask": [1] * len(row.ids), "labels": row.labels} for row in rows
        ]
    features = []
    for row in rows:
        padding = PADDED_TO - len(row.ids)
        ids = [*row.ids, *[pad_id] * padding]
        features.append({"input_ids": ids, "attention_mask": [1] * len(row.ids) + [0] * padding, "labels": ids.copy()})
    return features


def make_collator(recipe: HfRecipe, tokenizer: Any) -> Any:
    """Give what makes a batch of features."""
    return default_data_collator if recipe.copies_labels else DataCollatorForSeq2Seq(tokenizer)


def common_arguments(request: MeasurementRequest, output: Path) -> dict[str, Any]:
    """Give the arguments that every rival gets: the same steps, learning rate, clipping and silence."""
    assert request.rows_per_step % request.micro_batch_rows == 0
    return {
        "output_dir": str(output),
        "use_cpu": not torch.cuda.is_available(),
        "per_device_train_batch_size": request.micro_batch_rows,
        "gradient_accumulation_steps": request.rows_per_step // request.micro_batch_rows,
        "num_train_epochs": 1,
        "learning_rate": request.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "seed": request.seed,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def train(request: MeasurementRequest, rows: Sequence[TokenRow], clock: StepClock, adapter: Path) -> None:
    """Train one epoch, and leave the adapter in a folder."""
    recipe = RECIPES[request.trainer]
    tokenizer = AutoTokenizer.from_pretrained(request.base, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = load_with_adapter(request, resolve_dtype(request.dtype))
    arguments = TrainingArguments(
        **common_arguments(request, adapter / "output"),
        bf16=resolve_dtype(request.dtype) == torch.bfloat16,
        train_sampling_strategy=recipe.sampling,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=make_features(rows, recipe, tokenizer.pad_token_id),
        data_collator=make_collator(recipe, tokenizer),
        callbacks=[Timing(clock)],
    )
    trainer.train()
    model.save_pretrained(adapter, save_embedding_layers=False)
