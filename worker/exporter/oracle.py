"""What the adapter itself computes: PEFT's modules over transformers', in float32, with our arithmetic in neither.

Logits on prompts and on how the model goes on from them; and the base model's weights as PEFT merges them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from core.exports.spec import TriedPrompt
from worker.models.loading import load_causal_model, read_model_config

CONTINUED_TOKENS: Final = 16


@dataclass(frozen=True)
class Reading:
    """A prompt with the model's own greedy continuation, and the logits at all places."""

    prompt: TriedPrompt
    ids: tuple[int, ...]
    logits_TV: Tensor

    @property
    def continued(self) -> tuple[int, ...]:
        return self.ids[len(self.prompt.ids) :]


def load_base(folder: Path) -> PreTrainedModel:
    """Load a base model in float32.

    Raises:
        BaseModelInvalid: the folder does not hold what its config asks for.
    """
    return load_causal_model(folder, read_model_config(folder), torch.float32)


def with_adapter(base: PreTrainedModel, adapter_folder: Path) -> PeftModel:
    """Give PEFT's model of a base model and an adapter's folder; ``base`` becomes a part of it."""
    model = PeftModel.from_pretrained(base, str(adapter_folder), autocast_adapter_dtype=False).float()
    model.requires_grad_(False)
    model.eval()
    return model


@torch.inference_mode()
def read_prompts(model: Any, prompts: Sequence[TriedPrompt], end_ids: frozenset[int]) -> list[Reading]:
    """Have a model go on from prompts, and read its logits."""
    readings = []
    for prompt in prompts:
        given_1T = torch.tensor([prompt.ids])
        whole_1T = model.generate(
            input_ids=given_1T,
            attention_mask=torch.ones_like(given_1T),
            max_new_tokens=CONTINUED_TOKENS,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(end_ids),
            pad_token_id=min(end_ids),
        )
        ids = tuple(whole_1T[0].tolist())
        readings.append(Reading(prompt, ids, read_logits(model, ids)))
    return readings


@torch.inference_mode()
def read_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Give a model's logits behind each of some ids, by themselves."""
    logits_TV: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits_TV.float()


def merged_by_peft(model: PeftModel) -> PreTrainedModel:
    """Merge the adapter into its base model as PEFT does, in place; give the base model."""
    merged: PreTrainedModel = model.merge_and_unload()
    return merged
