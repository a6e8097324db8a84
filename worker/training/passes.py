"""One forward and backward pass over the micro-batches of one run, or of several at once.

The base model's products are over all their rows; each row has its own run's adapter, loss and gradient. Whose turn
it is, and what the gradients are for, is not known here.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.training.data.batches import MicroBatch, join
from worker.training.measure.step_times import Part, StepTimes
from worker.training.model.lora import LoraModel
from worker.training.model.loss import weighted_losses
from worker.training.process.loss_sums import LossSums


@dataclass(frozen=True)
class Share:
    """A run's micro-batch of its present step: what it asks to be computed.

    Attributes:
        total_weight: of the whole step, by which its loss is divided.
        most_rows: that a pass may have, as far as the run knows.
        seed: of what is drawn at random meanwhile.
        times: of the step; a pass that others share counts in full.
    """

    model: LoraModel
    batch: MicroBatch
    noise_NH: Tensor | None
    total_weight: float
    most_rows: int
    seed: int
    times: StepTimes

    @property
    def rows(self) -> int:
        return len(self.batch.input_ids_N)


def can_share(shares: Sequence[Share]) -> bool:
    """Tell whether one pass may be over all of these; over a single one always."""
    return len(shares) == 1 or all(share.model.joins for share in shares)


def compute(shares: Sequence[Share]) -> list[LossSums]:
    """Add the gradient of each share to its own adapter's, and give its sums."""
    first = shares[0].model
    # LoRA dropout draws from the global generator; seeded here, a resumed run draws the same. Who has it is alone.
    torch.manual_seed(shares[0].seed)
    with _within("forward", shares):
        hidden_KH = first.hidden_states(join([share.batch for share in shares]), _joined_noise(shares))
        parts = [(share.batch, share.total_weight) for share in shares]
        loss, sums = weighted_losses(hidden_KH, first.head, parts, first.techniques, first.kernels)
    with _within("backward", shares):
        loss.backward()
    return sums


@contextmanager
def _within(part: Part, shares: Sequence[Share]) -> Iterator[None]:
    with ExitStack() as stack:
        for share in shares:
            stack.enter_context(share.times.within(part))
        yield


def _joined_noise(shares: Sequence[Share]) -> Tensor | None:
    """Put the noise of each behind the other, none where a run has none."""
    if all(share.noise_NH is None for share in shares):
        return None
    width = shares[0].model.head.in_features
    none = torch.zeros(0, width, device=shares[0].model.device)
    return torch.cat([none.new_zeros(s.rows, width) if s.noise_NH is None else s.noise_NH for s in shares])
