"""The gradient of one optimizer step, added up over the micro-batches that its examples are cut into.

Which examples a step has is ``worker.training.plan``'s; what is done with the gradient, ``worker.training.loop``'s.
"""

from dataclasses import dataclass

import torch

from worker.training.batches import collate
from worker.training.data import ExampleSet
from worker.training.label_check import require_labels
from worker.training.lora import LoraModel
from worker.training.loss import LossSums, weighted_loss
from worker.training.plan import Plan, mix, pack
from worker.training.stopping import CheckStop


@dataclass(frozen=True)
class StepSums:
    """What a step's micro-batches add up to."""

    loss: LossSums
    tokens: int  # of the examples, padding not counted


@dataclass
class GradientAccumulator:
    """Leaves the gradient of a step's loss in the parameters; however the step is cut, it is the same."""

    model: LoraModel
    training: ExampleSet
    plan: Plan
    token_budget: int  # tokens of a micro-batch, padding included
    check_stop: CheckStop

    def accumulate(self, step: int) -> StepSums:
        """Add up the gradient of the step that follows ``step`` steps.

        Raises:
            Stopped: the trainer was told to stop; the parameters hold a part of the gradient.
            LabelsMismatch: a micro-batch is not what its examples say.
        """
        members = self.plan.members_of(step)
        examples = [self.training[index] for index in members]
        total_weight = float(sum(example.weights_T.sum(dtype="float64") for example in examples))
        sums, tokens = LossSums(), 0
        for number, positions in enumerate(pack([len(example.ids_T) for example in examples], self.token_budget)):
            self.check_stop()
            # LoRA dropout draws from the global generator; seeded here, a resumed run draws the same.
            torch.manual_seed(mix(self.plan.seed, step, number))
            chosen = [examples[position] for position in positions]
            batch = collate(chosen, self.model.device)
            require_labels(batch, chosen, [int(self.training.lines[members[at]]) for at in positions])
            with self.model.autocast():
                hidden_BTH = self.model.hidden_states(batch.input_ids_BT)
            loss, part = weighted_loss(hidden_BTH, self.model.head, batch, total_weight)
            loss.backward()
            sums.add(part)
            tokens += batch.tokens
        return StepSums(sums, tokens)
