"""LoRA for a batch whose rows use different adapters: their factors side by side in a bank of columns.

Each group of layers that share an input has its adapters' factors in two tensors, in which an adapter owns the same
range of columns everywhere, so mixed ranks need no padding. L are the layers of a group, R the bank's columns. Where
adapters come from and whether they fit the model is not known here.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from worker.inference.lora.adapter import Adapter
from worker.inference.lora.step_columns import LONGEST_SHARED, LoraPlan, LoraSegment, Span, make_plan
from worker.inference.native.mapped_memory import lazy_zeros

WIDTH_MULTIPLE: Final = 8  # of columns: rows of a factor then begin at 16 bytes, as matrix kernels like it

_ALIGNED: Final = 32  # numbers: a tensor begins at a line of the cache


class LoraGroup:
    """Layers that share an input: their names, and where the outputs of each begin among all of theirs.

    The tensors are made for the first adapter that changes one of the layers: a_LRI and, for each layer, b_RO.
    """

    def __init__(self, names: Sequence[str], in_features: int, out_features: Sequence[int]) -> None:
        self.names = tuple(names)
        self.in_features = in_features
        self.out_features = tuple(out_features)
        self.offsets = (0, *accumulate(out_features))
        self.numbers_per_column = in_features * len(names) + self.offsets[-1]
        self.a_LRI: Tensor | None = None
        self.b_RO: tuple[Tensor, ...] = ()

    def add(self, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        """Add to each token's outputs, side by side in ``y``, what its adapter adds; base tokens are not touched."""
        if not plan.touches(self.names):
            return
        for segment in plan.segments:
            self.add_segment(x_NI, y_NO, segment)
        self.apply_dora_magnitude(y_NO, plan)

    def add_segment(self, x_NI: Tensor, y_NO: Tensor, segment: LoraSegment) -> None:
        """As `add`, for one segment of a step's tokens, and without DoRA's magnitude."""
        assert self.a_LRI is not None, "an adapter that is ready has its factors in the bank"
        x_NI, y_NO, a_LRI = x_NI[segment.tokens], y_NO[segment.tokens], self.a_LRI[:, segment.columns]
        for number, (begin, b_RO) in enumerate(zip(self.offsets, self.b_RO, strict=False)):
            lora_a_NR = torch.nn.functional.linear(x_NI, a_LRI[number])
            if segment.mask_NR is not None:
                lora_a_NR *= segment.mask_NR
            y_NO[:, begin : begin + b_RO.shape[1]].addmm_(lora_a_NR, b_RO[segment.columns])

    def apply_dora_magnitude(self, y_NO: Tensor, plan: LoraPlan) -> None:
        """Multiply the outputs of DoRA's tokens by the scales of their magnitudes."""
        for tokens, adapter in plan.dora:
            for number, name in enumerate(self.names):
                pair = adapter.pairs.get(name)
                if pair is None or pair.magnitude_scale_O is None:
                    continue
                outputs = y_NO[tokens, self.offsets[number] : self.offsets[number + 1]]
                bias_O = plan.biases.get(name)
                bias = 0.0 if bias_O is None else bias_O.float()
                outputs.copy_((outputs.float() - bias) * pair.magnitude_scale_O + bias)

    def copy(self, adapter: Adapter, columns: slice, bank_columns: int, make: "_Zeros") -> int:
        """Write an adapter's factors into its columns, zeros where it has none; give the bytes written.

        ``make`` makes the group's tensors, for the first adapter that changes one of its layers.
        """
        pairs = [adapter.pairs.get(name) for name in self.names]
        if self.a_LRI is None:
            first = next((pair for pair in pairs if pair is not None), None)
            if first is None:
                return 0
            self._allocate(bank_columns, first.a_RI, make)
        assert self.a_LRI is not None
        for number, pair in enumerate(pairs):
            for factor, values in (
                (self.a_LRI[number, columns], None if pair is None else pair.a_RI),
                (self.b_RO[number][columns], None if pair is None else pair.b_RO),
            ):
                rank = 0 if values is None else len(values)
                if values is not None:
                    factor[:rank] = values
                if rank < len(factor):
                    factor[rank:] = 0
        return _width(columns) * self.numbers_per_column * self.a_LRI.itemsize

    def _allocate(self, columns: int, like: Tensor, make: "_Zeros") -> None:
        self.a_LRI = make((len(self.names), columns, self.in_features), like)
        self.b_RO = tuple(make((columns, out), like) for out in self.out_features)


_Zeros = Callable[[Sequence[int], Tensor], Tensor]  # of a shape, on the device and in the type of a tensor


@dataclass
class _Placement:
    """An adapter's columns, who uses them, and how many groups have its factors already.

    ``adapter`` is None once all of it was copied: the columns must not keep it in memory.
    """

    adapter: Adapter | None
    columns: slice
    pins: int = 0
    copied_groups: int = 0
    is_dropped: bool = field(default=False)  # forgotten when the last pin is gone


class LoraBank:
    """Columns for the adapters in use; those that nobody uses stay until their columns are needed.

    Attributes:
        version: changes when a group's tensors are made; 0 before the first are.
    """

    def __init__(self, groups: Sequence[LoraGroup], columns: int, biases: dict[str, Tensor]) -> None:
        self._groups = tuple(groups)
        self.columns = columns
        self._biases = biases  # by layer name; what DoRA's magnitude does not scale
        self.version = 0
        self._memory: Tensor | None = None  # on a CPU: what is left of it for groups that have no tensors yet
        self._placements: OrderedDict[str, _Placement] = OrderedDict()  # least recently used first

    @property
    def placed(self) -> tuple[str, ...]:
        """Digests of the adapters that have columns, least recently used first."""
        return tuple(self._placements)

    @property
    def used_columns(self) -> int:
        return sum(_width(placement.columns) for placement in self._placements.values())

    @property
    def pinned(self) -> int:
        return sum(placement.pins for placement in self._placements.values())

    @property
    def layers(self) -> frozenset[str]:
        """The layers that have columns: each that any adapter has changed so far, and those beside it."""
        return frozenset(name for group in self._groups if group.a_LRI is not None for name in group.names)

    def columns_of(self, adapter: Adapter) -> slice:
        """Give the columns of an adapter that was reserved."""
        return self._placements[adapter.digest].columns

    def fits(self, adapter: Adapter) -> bool:
        """Tell whether the adapter could ever have columns."""
        return _round_up(adapter.rank) <= self.columns

    def reserve(self, adapter: Adapter) -> bool:
        """Give an adapter columns and keep them until `unpin`; False while others use too many of them."""
        placement = self._placements.get(adapter.digest)
        if placement is None:
            columns = self._find_columns(_round_up(adapter.rank))
            if columns is None:
                return False
            for digest in [d for d, other in self._placements.items() if _overlap(other.columns, columns)]:
                del self._placements[digest]
            placement = self._placements[adapter.digest] = _Placement(adapter, columns)
        placement.pins += 1
        placement.is_dropped = False
        self._placements.move_to_end(adapter.digest)
        return True

    def is_ready(self, adapter: Adapter) -> bool:
        placement = self._placements.get(adapter.digest)
        return placement is not None and placement.adapter is None

    def copy_some(self, limit_bytes: int) -> bool:
        """Copy factors of reserved adapters, about so many bytes; tell whether some are left to copy."""
        for placement in self._placements.values():
            while placement.adapter is not None:
                if limit_bytes <= 0:
                    return True
                group = self._groups[placement.copied_groups]
                before = group.a_LRI
                limit_bytes -= group.copy(placement.adapter, placement.columns, self.columns, self._zeros)
                if group.a_LRI is not before:
                    self.version += 1
                placement.copied_groups += 1
                if placement.copied_groups == len(self._groups):
                    placement.adapter = None
        return False

    def _zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Make a group's tensor. On a CPU all lie in one mapping, which takes memory as columns are written."""
        if like.device.type != "cpu":
            return like.new_zeros(*shape)
        if self._memory is None:
            tensors = sum(len(group.names) * 2 for group in self._groups)
            numbers = self.columns * sum(group.numbers_per_column for group in self._groups) + tensors * _ALIGNED
            self._memory = lazy_zeros(numbers, like.dtype)
        numbers = math.prod(shape)
        zeros, self._memory = self._memory[:numbers].view(*shape), self._memory[numbers + -numbers % _ALIGNED :]
        return zeros

    def unpin(self, adapter: Adapter) -> None:
        placement = self._placements[adapter.digest]
        placement.pins -= 1
        assert placement.pins >= 0, "an adapter was unpinned more often than reserved"
        if placement.is_dropped and not placement.pins:
            del self._placements[adapter.digest]

    def drop(self, digest: str) -> None:
        """Forget an adapter, as soon as nothing uses it."""
        placement = self._placements.get(digest)
        if placement is None:
            return
        placement.is_dropped = True
        if not placement.pins:
            del self._placements[digest]

    def plan(self, spans: Sequence[Span], longest_shared: int = LONGEST_SHARED) -> LoraPlan:
        """Say which columns each token of a step uses; ``spans`` cover the tokens in order, short ones first.

        Those of no more than ``longest_shared`` tokens are short.
        """
        places = {digest: placement.columns for digest, placement in self._placements.items()}
        return make_plan(spans, places, self._biases, longest_shared)

    def _find_columns(self, width: int) -> slice | None:
        """Find room: free columns if there are any, else those whose users were all gone the longest."""
        best: tuple[int, int] | None = None
        ages = {digest: age for age, digest in enumerate(self._placements, start=1)}
        starts = sorted({0, *(placement.columns.stop for placement in self._placements.values())})
        for start in starts:
            columns = slice(start, start + width)
            if columns.stop > self.columns:
                continue
            inside = [(d, p) for d, p in self._placements.items() if _overlap(p.columns, columns)]
            if any(placement.pins for _, placement in inside):
                continue
            youngest = max((ages[digest] for digest, _ in inside), default=0)
            if best is None or (youngest, start) < best:
                best = (youngest, start)
        return None if best is None else slice(best[1], best[1] + width)


def _round_up(rank: int) -> int:
    return rank + -rank % WIDTH_MULTIPLE


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _overlap(left: slice, right: slice) -> bool:
    return bool(left.start < right.stop and right.start < left.stop)
