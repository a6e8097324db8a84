"""Records what a function launches on a GPU, so that it can be launched again at once: CUDA graphs.

Knows nothing of what is recorded.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Recorder(Protocol):
    """Records what a function launches."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Give what launches the same again: over the same tensors, whatever Python names them by now.

        It gives the same tensor each time, written anew. ``work`` is run, perhaps more than once; it must not wait
        for the device, so it may not ask for a value, nor for a shape that depends on one.

        Raises:
            RuntimeError: ``work`` cannot be recorded, or there is no memory for it.
        """
        ...


class CudaRecorder:
    """CUDA graphs in one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        before = torch.cuda.current_stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            work()  # what is only done the first time, as loading a kernel, cannot be recorded
        before.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile: they load adapters.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(before)  # torch leaves the other one where it cannot end a recording

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
