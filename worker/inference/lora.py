"""LoRA inside the base model: every linear layer can add the delta of a different adapter to each row of a batch.

Axis letters: B rows of the batch, T tokens, I inputs, O outputs, R rank. Where adapters come from
and whether they fit is not known here; ``verification`` has seen to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.text.rendering import Renderer


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one layer's delta, x·Aᵀ·Bᵀ·scale, in the base model's dtype and on its device.

    ``gain_O`` is DoRA's: what the layer's outputs, the delta in them but not the bias, are multiplied by. It
    is near 1, so it is kept in float32; None for plain LoRA.
    """

    a_RI: Tensor
    b_OR: Tensor
    scale: float
    gain_O: Tensor | None = None

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.a_RI, self.b_OR, self.gain_O) if tensor is not None)


@dataclass(frozen=True)
class Adapter:
    """A verified adapter in memory: its pairs by the name of the linear layer they belong to.

    ``renderer`` gives prompts as the adapter was trained on them.
    """

    digest: str
    pairs: dict[str, LoraPair]
    renderer: Renderer
    bytes: int


@dataclass(frozen=True)
class _Group:
    """The rows of one adapter."""

    adapter: Adapter
    rows: slice | Tensor  # a slice where the rows lie together: it reads and writes without a copy


class RowPlan:
    """Which adapter each row of the coming forward uses; one plan is shared by all layers of a model."""

    def __init__(self) -> None:
        self.groups: tuple[_Group, ...] = ()

    def set(self, adapters: Sequence[Adapter | None], device: torch.device) -> None:
        """Give row i of the next forwards the i-th adapter; None leaves a row to the base model."""
        rows_of: dict[str, list[int]] = {}
        adapter_of: dict[str, Adapter] = {}
        for row, adapter in enumerate(adapters):
            if adapter is not None:
                rows_of.setdefault(adapter.digest, []).append(row)
                adapter_of[adapter.digest] = adapter
        self.groups = tuple(_Group(adapter_of[digest], _as_index(rows, device)) for digest, rows in rows_of.items())


class LoraLinear(nn.Module):
    """A base linear layer that adds, to the rows that the plan gives to an adapter, that adapter's delta."""

    def __init__(self, name: str, base: nn.Linear, plan: RowPlan) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self._plan = plan

    def forward(self, x_BTI: Tensor) -> Tensor:
        """Give outputs_BTO. Rows without an adapter keep exactly the base layer's output."""
        outputs_BTO: Tensor = self.base(x_BTI)
        for group in self._plan.groups:
            pair = group.adapter.pairs.get(self.name)
            if pair is None:
                continue
            delta = linear(linear(x_BTI[group.rows], pair.a_RI) * pair.scale, pair.b_OR)
            if pair.gain_O is not None:
                bias_O = 0.0 if self.base.bias is None else self.base.bias
                stretched = pair.gain_O * delta + (pair.gain_O - 1) * (outputs_BTO[group.rows] - bias_O)
                delta = stretched.to(outputs_BTO.dtype)
            if isinstance(group.rows, slice):
                outputs_BTO[group.rows] += delta
            else:
                outputs_BTO.index_add_(0, group.rows, delta)
        return outputs_BTO


def attach_lora(model: nn.Module, plan: RowPlan) -> dict[str, nn.Linear]:
    """Wrap every linear layer of the model, and give the layers that were wrapped by their names."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, layer in layers.items():
        model.set_submodule(name, LoraLinear(name, layer, plan))
    return layers


def gain_of(length_O: Tensor, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
    """Give what DoRA (2402.09353) multiplies each output by, so that its row of W + scale·B·A has the learnt length."""
    adapted_OI = weight_OI.float() + scale * (b_OR.float() @ a_RI.float())
    norm_O: Tensor = torch.linalg.vector_norm(adapted_OI, dim=1)
    return length_O.float() / norm_O


def _as_index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Index ascending rows: [2, 3, 4] as a slice, [0, 2] as a tensor."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
