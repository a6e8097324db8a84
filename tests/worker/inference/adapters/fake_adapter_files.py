"""What an adapter cache works on: files that are read when the test says so, kept counts, and a clock that is set."""

import threading
from dataclasses import dataclass

import torch

from core.errors import AdapterInvalid, AdapterMismatch
from core.text.rendering import Renderer
from worker.inference.lora.adapter import Adapter


@dataclass
class FakeOpened:
    """What is known of an adapter before its weights are read."""

    digest: str
    bytes: int
    files: "FakeFiles"

    def read(self) -> Adapter:
        self.files.reads.append(self.digest)
        self.files.torch_threads.add(torch.get_num_threads())
        assert self.files.go.wait(timeout=30)
        if self.digest in self.files.damaged:
            raise AdapterInvalid(self.digest, "damaged")
        return Adapter(self.digest, {}, self.files.renderer, self.bytes)


class FakeFiles:
    """Gives adapters of ten bytes; can be held up, and told to refuse one at once, or once it is read."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.opened: list[str] = []
        self.reads: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.refused: set[str] = set()
        self.mismatched: set[str] = set()
        self.damaged: set[str] = set()
        self.size_bytes = 10
        self.torch_threads: set[int] = set()

    def open(self, digest: str) -> FakeOpened:
        self.opened.append(digest)
        if digest in self.refused:
            raise AdapterInvalid(digest, "refused")
        if digest in self.mismatched:
            raise AdapterMismatch(digest, "of another base model")
        return FakeOpened(digest, self.size_bytes, self)


class Counts:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.loads: list[int] = []
        self.evictions = 0
        self.failures: list[str] = []

    def loaded(self, seconds: float, size_bytes: int) -> None:
        assert seconds >= 0
        self.loads.append(size_bytes)

    def evicted(self) -> None:
        self.evictions += 1

    def verify_failed(self, reason: str) -> None:
        self.failures.append(reason)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
