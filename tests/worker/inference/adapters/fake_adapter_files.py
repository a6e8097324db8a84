"""What an adapter cache works on: files that are read when the test says so, and kept counts."""

import threading
from dataclasses import dataclass

import torch

from core.errors import AdapterInvalid, AdapterMismatch
from core.text.rendering import Renderer
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics


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


class LoadCounts(EngineMetrics):
    """What was counted of loads."""

    @property
    def loads(self) -> float:
        return self._read("adapter_load_seconds_count")

    @property
    def loaded_bytes(self) -> float:
        return self._read("adapter_loaded_bytes_total")

    @property
    def evictions(self) -> float:
        return self._read("adapter_evictions_total")

    @property
    def failures(self) -> dict[str, float]:
        """By the error's code."""
        samples = (sample for family in self.registry.collect() for sample in family.samples)
        return {
            sample.labels["reason"]: sample.value
            for sample in samples
            if sample.name == "loramill_engine_adapter_refusals_total"
        }

    def _read(self, name: str) -> float:
        return self.registry.get_sample_value(f"loramill_engine_{name}") or 0
