"""Scores the held-out examples: nats per completion token, whatever weight prompts have in training."""

import torch

from worker.trainer_process.messages import Evaluated
from worker.training.data.examples import ExampleSet
from worker.training.model.lora import LoraModel
from worker.training.model.loss import weighted_loss
from worker.training.process.loss_sums import LossSums
from worker.training.process.ranks import ALONE, Ranks
from worker.training.process.stopping import CheckStop


def evaluate(
    model: LoraModel,
    examples: ExampleSet,
    *,
    step: int,
    token_budget: int,
    check_stop: CheckStop,
    ranks: Ranks = ALONE,
) -> Evaluated:
    """Sum the loss over all completion tokens, then divide once, so batching does not show in the result.

    Raises:
        Stopped: the trainer was told to stop.
    """
    sums = LossSums()
    model.peft.eval()
    try:
        batches = model.pack(examples.lengths.tolist(), token_budget, ranks=ranks.size)
        for _, members in ranks.share(batches, check_stop):
            batch = model.collate([examples[index] for index in members], completion_only=True)
            with torch.inference_mode():
                hidden_KH = model.hidden_states(batch)
                sums.add(weighted_loss(hidden_KH, model.head, batch, total_weight=1.0, kernels=model.kernels)[1])
    finally:
        model.peft.train()
    sums = ranks.sum_losses(sums)
    return Evaluated(
        step=step,
        loss=sums.completion_loss,
        token_accuracy=sums.token_accuracy,
        tokens=sums.completion_tokens,
        examples=len(examples),
    )
