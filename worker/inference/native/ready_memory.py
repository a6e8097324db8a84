"""A mapping that has its memory already, for the next large adapter.

A page of memory is found and cleared when it is first touched, and where the machine is a virtual one its host may have
to do the same: that took four fifths of the time of reading an adapter. So it is done beforehand, by a thread that
gives way. What the memory will hold is not known here.
"""

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from worker.inference.native.mapped_memory import map_zeros

MOST_READY_BYTES: Final = 2**28  # which are taken while nobody uses them
_PAGE_BYTES: Final = 4096
_NICENESS: Final = 5  # beside two busy threads on two cores it then gets a quarter of one


class ReadyMemory:
    """At most one mapping, on huge pages: adapters of one base model are most often of one size."""

    def __init__(self) -> None:
        self._ready: mmap.mmap | None = None
        self._lock = threading.Lock()  # guards the one above
        self._thread = ThreadPoolExecutor(1, "ready-memory", initializer=_give_way)

    def take(self, size_bytes: int) -> mmap.mmap:
        """Give the mapping that is ready, if it is of this size, or else one whose memory is still to come."""
        with self._lock:
            ready = self._ready
            if ready is not None and len(ready) == size_bytes:
                self._ready = None
                return ready
        return map_zeros(size_bytes, huge=True)

    def prepare(self, size_bytes: int) -> None:
        """Have one of this size ready soon, in the place of one of another size; not if it would be too large."""
        if size_bytes <= MOST_READY_BYTES:
            self._thread.submit(self._prepare, size_bytes)

    def wait(self) -> None:
        """Wait for what is being prepared."""
        self._thread.submit(lambda: None).result()

    def _prepare(self, size_bytes: int) -> None:
        with self._lock:
            if self._ready is not None and len(self._ready) == size_bytes:
                return
            self._ready = None  # before the other is made, so that there are never two
        mapping = map_zeros(size_bytes, huge=True)
        torch.frombuffer(mapping, dtype=torch.int8)[::_PAGE_BYTES].zero_()
        with self._lock:
            self._ready = mapping


def _give_way() -> None:
    torch.set_num_threads(1)
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
