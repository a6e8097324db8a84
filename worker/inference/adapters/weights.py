"""An adapter's weights from its file to pairs of factors, in the form that the engine multiplies with.

Axis letters: I inputs, O outputs, R rank. Which layers an adapter changes, and how, is given; nothing of the file
is trusted: every tensor that should be there is, none else, each of its shape, all values finite.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from core.errors import AdapterInvalid
from core.serving.adapter_tensors import LENGTH, PARTS, A, B, PairShape, place_tensors
from core.serving.strict_json import shown
from worker.inference.adapters.weights_file import WeightsFile
from worker.inference.lora.adapter import LoraPair, magnitude_scale
from worker.inference.native.ready_memory import ReadyMemory
from worker.inference.native.weight_memory import LINE_BYTES, WeightMemory

_HUGE_FROM_BYTES: Final = 2**24  # of an adapter; the end of its last huge page is then a small part of it


class PairReader:
    """Reads one file. ``weight_of`` gives a base layer's weight_OI, in any dtype; asked for DoRA's layers only."""

    def __init__(
        self,
        digest: str,
        shapes: Mapping[str, PairShape],
        weight_of: Callable[[str], Tensor],
        device: torch.device,
        dtype: torch.dtype,
        ready: ReadyMemory,
    ) -> None:
        self._digest = digest
        self._shapes = shapes
        self._weight_of = weight_of
        self._device = device
        self._dtype = dtype
        self._ready = ready
        self._memory = WeightMemory(ready.take(self._memory_bytes)) if self._wants_huge_pages() else None
        self._taken: dict[tuple[str, str], Tensor] = {}
        self._stored: dict[str, dict[str, Tensor]] = {}  # as in the file, for layers whose scale is not derived yet

    def read(self, file: WeightsFile) -> dict[str, LoraPair]:
        """Give the pairs by their layers' names; they may be used once the file's digest was checked.

        Raises:
            AdapterInvalid: the file does not hold exactly these pairs; names the tensor.
        """
        places = place_tensors(self._digest, file.read_header(), self._shapes)
        for entry, (layer, part) in places:
            tensor = file.read_tensor(entry)
            taken = self._take(tensor, part, self._shapes[layer].scale)
            if not _is_finite(taken):
                raise self._refusal(f"tensor {shown(entry.name)} has values that are not finite in {self._dtype}")
            self._taken[layer, part] = taken.to(self._device)
            if self._shapes[layer].has_length:
                self._keep(layer, part, tensor)
        if self._memory is not None:
            self._ready.prepare(self._memory_bytes)  # the next one may well be of the same size
        return {
            layer: LoraPair(self._taken[layer, A], self._taken[layer, B], self._taken.get((layer, LENGTH)))
            for layer in self._shapes
        }

    def _take(self, tensor: Tensor, part: str, scale: float) -> Tensor:
        """Copy a tensor out of the file's buffer in the form that is kept."""
        match part:
            case "lora_A":
                return self._copy(tensor)
            case "lora_B":
                turned = tensor.t().contiguous()  # before it is widened, and by itself, as torch does in blocks
                if self._dtype in (tensor.dtype, torch.float32):
                    return self._copy(turned).mul_(scale)
                return self._copy(turned.float().mul(scale))  # so that it is rounded once
            case _:
                return tensor.to(torch.float32, copy=True)

    def _copy(self, tensor: Tensor) -> Tensor:
        """Copy a tensor in the type that is kept."""
        if self._memory is None:
            return tensor.to(self._dtype, copy=True)
        return self._memory.copy(tensor, self._dtype)

    def _wants_huge_pages(self) -> bool:
        """Tell whether it is on a CPU and large: to take on tens of thousands of small pages is most of reading it."""
        return self._device.type == "cpu" and self._memory_bytes >= _HUGE_FROM_BYTES

    @property
    def _memory_bytes(self) -> int:
        """What its tensors take, each from the beginning of a line."""
        numbers = sum(pair.bytes(self._dtype.itemsize) for pair in self._shapes.values())
        return numbers + len(self._shapes) * len(PARTS) * LINE_BYTES

    def _keep(self, layer: str, part: str, tensor: Tensor) -> None:
        """Put DoRA's tensors by as they are stored, and derive their layer's scale from them once all are there.

        The model's dtype may be too coarse for that.
        """
        stored = self._stored.setdefault(layer, {})
        stored[part] = tensor.to(self._device, copy=True)
        if len(stored) < len(PARTS):
            return
        weight_OI, scale = self._weight_of(layer), self._shapes[layer].scale
        magnitude_scale_O = magnitude_scale(stored[LENGTH], weight_OI, stored[A], stored[B], scale)
        if not _is_finite(magnitude_scale_O):
            raise self._refusal(f"layer {layer} has a row of length 0, which cannot be scaled")
        self._taken[layer, LENGTH] = magnitude_scale_O
        del self._stored[layer]

    def _refusal(self, reason: str) -> AdapterInvalid:
        return AdapterInvalid(self._digest, reason)


def _is_finite(tensor: Tensor) -> bool:
    """Tell whether all values are finite.

    Their sum is at least ten times quicker than looking at each, and no sum of NaN or infinity is finite; only
    where finite values are so large that the sum is not, each is looked at.
    """
    return bool(tensor.sum().isfinite()) or bool(torch.isfinite(tensor).all())
