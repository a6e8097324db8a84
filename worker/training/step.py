"""The gradient of one optimizer step, added up over the micro-batches that its examples are cut into.

Which examples a step has is ``worker.training.data.plan``'s; what is done with the gradient, the loop's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from core.errors import NoTrainedTokens
from core.estimates.memory_plan import MIN_TOKENS
from worker.training.data.batches import MicroBatch
from worker.training.data.examples import ExampleSet
from worker.training.data.label_check import require_labels
from worker.training.data.plan import TrainingPlan, mix
from worker.training.lockstep import PassTooLarge, SharedWork, complete
from worker.training.measure.step_times import StepTimes
from worker.training.model.lora import LoraModel
from worker.training.model.memory import is_out_of_memory
from worker.training.model.noise import draw_noise
from worker.training.passes import Share
from worker.training.process.loss_sums import LossSums
from worker.training.process.ranks import ALONE, Ranks
from worker.training.process.stopping import CheckStop


@dataclass(frozen=True)
class StepSums:
    """What a step's micro-batches add up to."""

    loss: LossSums
    tokens: int  # of the examples, padding not counted
    inputs: int  # that went through the model, padding included
    times: StepTimes


@dataclass
class GradientAccumulator:
    """Leaves the gradient of a step's loss in the parameters; however the step is cut and shared, it is the same."""

    model: LoraModel
    training: ExampleSet
    plan: TrainingPlan
    token_budget: int  # tokens of a micro-batch, padding included
    check_stop: CheckStop
    noise_alpha: float = 0.0  # NEFTune's; 0: no noise
    ranks: Ranks = ALONE
    on_halved: Callable[[int], None] = lambda token_budget: None  # told when memory did not suffice

    def accumulate(self, step: int) -> StepSums:
        """Add up the gradient of the step that follows ``step`` steps, alone; see `shares`."""
        return complete(self.shares(step))

    def shares(self, step: int) -> SharedWork[StepSums]:
        """Ask for the micro-batches of the step that follows ``step`` steps, one by one; give what they add up to.

        Where a micro-batch does not fit after all, the budget is halved and the step begun anew. Of several ranks
        none can do so alone.

        Raises:
            Stopped: the trainer was told to stop; the parameters hold a part of the gradient.
            LabelsMismatch: a micro-batch is not what its examples say.
            NoTrainedTokens: the step's weights are so small that they are 0.
        """
        while True:
            try:
                return (yield from self._shares(step))
            except PassTooLarge:
                pass
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.token_budget <= MIN_TOKENS or self.ranks.size > 1:
                    raise
                self.token_budget = max(MIN_TOKENS, self.token_budget // 2)
                self.on_halved(self.token_budget)
            for parameter in self.model.parameters.values():
                parameter.grad = None

    def _shares(self, step: int) -> SharedWork[StepSums]:
        times = StepTimes()
        with times.within("data"):
            members = self.plan.members_of(step)
            examples = [self.training[index] for index in members]
            total_weight = float(sum(example.weights_T.sum(dtype="float64") for example in examples))
            self._require_weight(step, total_weight, members)
            lengths = [len(example.ids_T) for example in examples]
            batches = self.model.pack(lengths, self.token_budget, ranks=self.ranks.size)
        sums, tokens, inputs = LossSums(), 0, 0
        for number, positions in self.ranks.share(batches, self.check_stop):
            with times.within("data"):
                chosen = [examples[position] for position in positions]
                batch = self.model.collate(chosen)
                require_labels(batch, chosen, [int(self.training.lines[members[at]]) for at in positions])
                noise_NH = self._noise(batch, step, positions)
            seed = mix(self.plan.seed, step, number)
            sums.add((yield Share(self.model, batch, noise_NH, total_weight, self.token_budget, seed, times)))
            tokens += batch.tokens
            inputs += sum(batch.lengths)
        with times.within("backward"):
            self.ranks.sum_gradients(self.model.parameters.values())
            sums = self.ranks.sum_losses(sums)
            tokens, inputs = self.ranks.sum_counts(tokens, inputs)
        return StepSums(sums, tokens, inputs, times)

    def _require_weight(self, step: int, total_weight: float, members: Sequence[int]) -> None:
        """Refuse to divide by nothing: a weight below 1e-45, which is above 0 where it is read, is 0 as a float32."""
        if not total_weight:
            raise NoTrainedTokens(
                f"the weights of all tokens of step {step + 1} are too small to be told from 0; raise "
                "prompt_loss_weight or the messages' weights, or set them to 0",
                tuple(sorted(int(self.training.lines[member]) for member in members)),
            )

    def _noise(self, batch: MicroBatch, step: int, positions: Sequence[int]) -> Tensor | None:
        if not self.noise_alpha:
            return None
        seeds = [mix(self.plan.seed, step, position) for position in positions]
        return draw_noise(batch, seeds, alpha=self.noise_alpha, width=self.model.head.in_features)
