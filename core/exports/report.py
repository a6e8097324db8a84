"""What trying an export against its adapter found, and the bounds above which the export has failed.

Numbers and the verdict on them. How they are measured is the exporter's matter.
"""

from dataclasses import dataclass
from typing import Final

from core.errors import ExportDiffers
from core.exports.spec import PromptPart, Rounding
from core.values import Frozen


@dataclass(frozen=True)
class Bounds:
    """The most by which an export may differ from its adapter.

    Attributes:
        divergence_nats: from the adapter's probabilities to the export's, the mean over a prompt's tokens.
        logit_difference: the largest of a prompt, in standard deviations of the adapter's logits there.
        other_share: of one tensor's numbers, those that are not the adapter's rounded once.
        step_error: distance of a number from the adapter's rounded once, in steps: at the middle between two either may
            be taken.
    """

    divergence_nats: float
    logit_difference: float
    other_share: float = 2e-3
    step_error: float = 1.01


# The weights are held to their rounding, number by number; what rounding does to a model's answers depends on the
# model, so the bounds on logits are wide enough for sound exports and exclude another model, template or shape.
BOUNDS: Final[dict[Rounding, Bounds]] = {
    "none": Bounds(divergence_nats=1e-5, logit_difference=2e-3),
    "f16": Bounds(divergence_nats=1e-3, logit_difference=0.25),
    "bf16": Bounds(divergence_nats=1e-2, logit_difference=1.0),
    "q8_0": Bounds(divergence_nats=5e-2, logit_difference=2.5),
}


class PromptReport(Frozen):
    """One prompt, and what the adapter greedily continues it with, fed to both.

    Attributes:
        tokens: places at which the two were compared.
        other_tokens: places at which another token is the most likely one.
        continued: tokens of the adapter's own continuation; ``same_continuation``: how many of them the export begins
            with as well.
        logit_difference: the largest, in standard deviations of the adapter's logits.
        divergence_nats: the mean Kullback-Leibler divergence.
    """

    part: PromptPart
    tokens: int
    other_tokens: int
    continued: int
    same_continuation: int
    logit_difference: float
    divergence_nats: float


class TensorReport(Frozen):
    """The written tensors, read back, against the adapter's merged into the base model by PEFT in float32.

    Attributes:
        compared: how many there are; ``adapted``: those that the adapter changes.
        step_error: the largest distance of a number from the adapter's rounded once, in steps of the rounding.
        other_share: the largest share of a tensor's numbers that are not the adapter's rounded once.
        kept_change: how much of the adapter's change the numbers have, 1 being all of it: the projection of theirs onto
            it. None: it changes nothing.
    """

    compared: int
    adapted: int
    step_error: float
    other_share: float
    kept_change: float | None


class ExportReport(Frozen):
    """All that was found."""

    rounding: Rounding
    prompts: tuple[PromptReport, ...]
    tensors: TensorReport

    @property
    def text(self) -> str:
        """The verdict as a sentence."""
        tokens = sum(prompt.tokens for prompt in self.prompts)
        other = sum(prompt.other_tokens for prompt in self.prompts)
        largest = max(prompt.divergence_nats for prompt in self.prompts)
        kept = self.tensors.kept_change
        change = "" if kept is None else f"; its numbers have {kept:.1%} of the adapter's change"
        return (
            f"On {len(self.prompts)} prompts the most likely token is another at {other:,} of {tokens:,} places, and "
            f"the largest divergence is {largest:.2g} nats a token{change}."
        )


def require_within_bounds(report: ExportReport) -> None:
    """Refuse an export that differs from its adapter by more than rounding explains.

    Raises:
        ExportDiffers: naming what differs, by how much, and the bound.
    """
    bounds, tensors = BOUNDS[report.rounding], report.tensors
    _require("a number's distance from the adapter's, in steps of its rounding,", tensors.step_error, bounds.step_error)
    _require("the share of a tensor's numbers that are not the adapter's", tensors.other_share, bounds.other_share)
    for number, prompt in enumerate(report.prompts, start=1):
        where = f"{prompt.part} prompt {number}"
        _require(f"the divergence in nats a token on {where}", prompt.divergence_nats, bounds.divergence_nats)
        _require(f"the largest difference of logits on {where}", prompt.logit_difference, bounds.logit_difference)


def _require(what: str, found: float, bound: float) -> None:
    if not found <= bound:  # so that what is no number is refused too
        raise ExportDiffers(f"the export is not the adapter's: {what} is {found:.3g}, and may be {bound:.3g} at most")
