"""Two ways through a model for one step: our own blocks where we know the architecture, else transformers' modules.

Both read the slots and the bank; a model's weights are laid out for serving when a way is made. Which way is right
for a model is tried by ``runner``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.attention import Scoring, attend
from worker.inference.model.contract import ModelSize
from worker.inference.model.projection import AdaptedProjection, Make, Weights
from worker.inference.model.step_layout import Step
from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import NO_TIMER, StepTimer

ATTENTION: Final = "loramill_slots"  # in transformers' registry of attention functions


@dataclass(frozen=True)
class StepLora:
    """What adapters add in one step: to all tokens in the blocks, to the wanted ones in the head."""

    blocks: LoraPlan
    head: LoraPlan


class Pass(Protocol):
    """One way to compute a step's logits; ``projections`` are by the name of each layer in them."""

    @property
    def projections(self) -> Mapping[str, AdaptedProjection]: ...

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        """Give logits_KV of the wanted tokens, in the model's type; the timer is told of the step's parts."""
        ...


class TransformersPass:
    """transformers' own modules, with our attention and our linear layers in their places."""

    def __init__(self, model: PreTrainedModel, make: Make) -> None:
        self._model: Any = model
        self._current = _Current()
        self.projections: dict[str, AdaptedProjection] = {}
        head = model.get_output_embeddings()
        for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
            projection = AdaptedProjection([name], [layer], make)
            self.projections[name] = projection
            model.set_submodule(name, _ServedLinear(projection, self._current, is_head=layer is head))
        model.config._attn_implementation = ATTENTION

    def __call__(self, step: Step, lora: StepLora, timer: StepTimer = NO_TIMER) -> Tensor:
        self._current.lora, self._current.timer = lora, timer
        logits_1KV: Tensor = self._model(
            input_ids=step.ids_N[None],
            position_ids=step.positions_N[None],
            # No cache of transformers': the slots are ours, and its mask would take the rows for one text.
            use_cache=False,
            logits_to_keep=step.wanted_K,
            loramill_step=step,
            loramill_timer=timer,
        ).logits
        return logits_1KV[0]


class _Current:
    """The step that is computed, for modules that transformers calls without it."""

    lora: StepLora
    timer: StepTimer


class _ServedLinear(nn.Module):
    """A linear layer of transformers' as we compute it."""

    def __init__(self, projection: AdaptedProjection, current: _Current, *, is_head: bool) -> None:
        super().__init__()
        self._projection, self._current, self._is_head = projection, current, is_head
        self.in_features = projection.group.in_features
        self.out_features = sum(projection.group.out_features)

    @property
    def weight(self) -> Tensor:
        """What some models read the type of."""
        return self._projection.weight_of(self._projection.group.names[0])

    def forward(self, x: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        lora, timer = self._current.lora, self._current.timer
        with timer.part(StepPart.LINEAR):
            y_NO = self._projection(x_NI)
        with timer.part(StepPart.LORA):
            self._projection.group.add(x_NI, y_NO, lora.head if self._is_head else lora.blocks)
        return y_NO.view(*x.shape[:-1], self.out_features)


def _attend_in_slots(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    loramill_step: Step,
    loramill_timer: StepTimer,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' signature: (1, A, N, D) in, (1, N, A, D) out. Its mask is not needed: the step knows."""
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    layer: Any = module.layer_idx
    query_NAD, key_NGD, value_NGD = (states[0].transpose(0, 1) for states in (query, key, value))
    with loramill_timer.part(StepPart.ATTENTION):
        attended_NAD = attend(query_NAD, key_NGD, value_NGD, loramill_step, layer, scoring)
    return attended_NAD[None], None


AttentionInterface.register(ATTENTION, _attend_in_slots)


def all_groups(projections: Mapping[str, AdaptedProjection]) -> tuple[LoraGroup, ...]:
    """Give each projection's group once, in the order in which the model computes them."""
    return tuple({id(projection): projection.group for projection in projections.values()}.values())


def size_of(model: PreTrainedModel, projections: Mapping[str, AdaptedProjection], weights: Weights) -> ModelSize:
    """Give the size of a model of which a way was made."""
    head = model.get_output_embeddings()
    [head_name] = [name for name, module in model.named_modules() if module is head]
    numbers = sum(_numbers(group) for group in all_groups(projections))
    head_numbers = _numbers(projections[head_name].group)
    width = torch.int8.itemsize if weights == "int8" else model.dtype.itemsize
    return ModelSize(numbers * width, numbers - head_numbers, head_numbers)


def _numbers(group: LoraGroup) -> int:
    return group.in_features * group.offsets[-1]


def biases_of(model: nn.Module) -> dict[str, Tensor]:
    """Give the linear layers' biases, by name."""
    return {
        name: module.bias.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.bias is not None
    }
