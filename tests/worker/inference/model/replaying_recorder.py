"""A recorder that needs no GPU: notes each operation of torch with its tensors, and runs the same on them again.

As with a CUDA graph, what Python would choose by now makes no difference: tensors that were replaced since are not
found, and what asks the device for a value cannot be recorded.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What waits for the device or copies from the host: a value asked for, a shape that depends on one, a list of numbers.
_NOT_RECORDED: Final = frozenset(
    {"is_nonzero", "item", "_local_scalar_dense", "nonzero", "masked_select", "lift_fresh"}
)


class ReplayingRecorder:
    """Implements ``recording.Recorder``.

    Attributes:
        recorded: how many functions.
        replayed: how often any of them.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self._notes: weakref.WeakSet[_Notes] = weakref.WeakSet()

    @property
    def kept(self) -> int:
        """How many recordings somebody still has."""
        return len(self._notes)

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        work()  # as a GPU's way does, to warm up
        notes = _Notes()
        with notes:
            result = work()
        self.recorded += 1
        self._notes.add(notes)
        result.fill_(float("nan"))  # a recording computes nothing: only a replay does

        def replay() -> Tensor:
            self.replayed += 1
            notes.run_again()
            return result

        return replay


class StuckRecorder:
    """Implements ``recording.Recorder`` for a device whose recordings do not read their inputs again."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        result = work()
        return lambda: result


class BrokenRecorder:
    """Implements ``recording.Recorder`` for a device that can do so no more."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")


class _Notes(TorchDispatchMode):
    """Operations with what they read and gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self._done: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in _NOT_RECORDED or _by_truth(func, args):
            raise RuntimeError(f"{func} cannot be recorded")
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} copies between devices")
        given = func(*args, **kwargs)
        self._done.append((func, args, kwargs, given))
        return given

    def run_again(self) -> None:
        for func, args, kwargs, given in self._done:
            again = func(*args, **kwargs)
            for before, now in zip(tree_leaves(given), tree_leaves(again), strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


def _by_truth(func: Any, args: Sequence[Any]) -> bool:
    """Tell whether tensors are chosen from, or written to, where a mask is true: how many is the device's to say."""
    if func.overloadpacket.__name__ not in ("index", "index_put", "index_put_"):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])
