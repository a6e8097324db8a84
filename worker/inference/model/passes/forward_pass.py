"""What computes a step's logits: the contract between a runner and its way through the model.

There are two: our own blocks (``blocks``) and transformers' modules (``transformers_pass``). Both read the slots and
the bank, and lay a model's weights out for serving when they are made; which of them is right for a model is tried by
``runner_building``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worker.inference.kv_cache.slots import KvShape
from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.contract import ModelSize
from worker.inference.model.projections.adapted_projection import AdaptedProjection
from worker.inference.model.step_layout import Step
from worker.inference.model.step_timer import NO_TIMER, StepTimer


@dataclass(frozen=True)
class StepLora:
    """What adapters add in one step: to all tokens in the blocks, to the wanted ones in the head."""

    blocks: LoraPlan
    head: LoraPlan


class Pass(Protocol):
    """One way to compute a step's logits; ``projections`` are by the name of each layer in them."""

    @property
    def projections(self) -> Mapping[str, AdaptedProjection]: ...

    @property
    def head(self) -> AdaptedProjection:
        """The one that gives the logits."""
        ...

    @property
    def kv_shape(self) -> KvShape:
        """Its keys and values, in the type that it computes in and on its device."""
        ...

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        """Give logits_KV of the wanted tokens, in the model's type; the timer is told of the step's parts."""
        ...


def all_groups(way: Pass) -> tuple[LoraGroup, ...]:
    """Give each projection's group once, in the order in which the model computes them."""
    return tuple(projection.group for projection in _projections(way))


def biases_of(way: Pass) -> dict[str, Tensor]:
    """Give the linear layers' biases, by name."""
    return {name: bias for projection in way.projections.values() for name, bias in projection.biases.items()}


def size_of(way: Pass) -> ModelSize:
    """Give the size of the model that it computes."""
    numbers, head = sum(_numbers(group) for group in all_groups(way)), _numbers(way.head.group)
    return ModelSize(sum(projection.weight_bytes for projection in _projections(way)), numbers - head, head)


def _projections(way: Pass) -> tuple[AdaptedProjection, ...]:
    return tuple({id(projection): projection for projection in way.projections.values()}.values())


def _numbers(group: LoraGroup) -> int:
    return group.in_features * group.offsets[-1]
