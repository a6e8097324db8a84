"""A model by transformers' own modules, with our attention and our linear layers in their places.

For architectures without blocks of our own. Only what needs it imports this: transformers takes seconds to import.
"""

from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from core.errors import BaseModelInvalid
from worker.inference.kv_cache.slots import KvShape
from worker.inference.model.attention import Scoring, attend
from worker.inference.model.passes.forward_pass import StepLora
from worker.inference.model.projections.adapted_projection import AdaptedProjection, LinearWeights
from worker.inference.model.projections.projection import Make
from worker.inference.model.step_layout import Step
from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import NO_TIMER, StepTimer
from worker.models.reference import PROBED_BLOCKS, PROBES

ATTENTION: Final = "loramill_slots"  # in transformers' registry of attention functions


class TransformersPass:
    """Implements ``forward_pass.Pass``."""

    def __init__(self, model: PreTrainedModel, make: Make) -> None:
        """Take a model over: it can be run by transformers no longer."""
        self._model: Any = model
        self.kv_shape = _kv_shape(model)
        self._current = _Current()
        self.projections: dict[str, AdaptedProjection] = {}
        head = model.get_output_embeddings()
        for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
            bias = None if layer.bias is None else layer.bias.detach()
            projection = AdaptedProjection(
                [name], [LinearWeights(layer.weight.detach(), bias, layer.weight.dtype)], make
            )
            self.projections[name] = projection
            if layer is head:
                self.head = projection
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


def probe(model: PreTrainedModel) -> tuple[Tensor, PreTrainedModel]:
    """Compute what follows each probe behind the first blocks, in float32; give it, and a copy of these blocks.

    Raises:
        BaseModelInvalid: the model's attention cannot be replaced by ours.
    """
    if not model._supports_attention_backend:
        raise BaseModelInvalid(
            f"{type(model).__name__} cannot be served: it attends in a way of its own, not through "
            "transformers' attention interface"
        )
    first: Any = _first_blocks(model)
    logits = [
        first(input_ids=torch.tensor([probe], device=model.device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for probe in PROBES
    ]
    return torch.stack(logits), first


def _first_blocks(model: PreTrainedModel) -> Any:
    """Copy a model with its first blocks only, in float32."""
    decoder: Any = model.base_model
    layers = getattr(decoder, "layers", None)
    if layers is None:
        return deepcopy(model).float()
    count = model.config.num_hidden_layers
    decoder.layers = layers[:PROBED_BLOCKS]
    model.config.num_hidden_layers = len(decoder.layers)
    try:
        return deepcopy(model).float()
    finally:
        decoder.layers = layers
        model.config.num_hidden_layers = count


def _kv_shape(model: PreTrainedModel) -> KvShape:
    """Read from a model's config what its keys and values are."""
    config: Any = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return KvShape(config.num_hidden_layers, kv_heads, head_dim, model.dtype, model.device)
