"""Factors are kept in the engine's type as they are stored, B turned and scaled, and rounded once."""

import hashlib
import mmap
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.serving.adapter_format import FileDigest
from core.serving.adapter_tensors import PairShape
from tests.worker.inference.huge_pages import gives_huge_pages, on_huge_pages
from worker.inference.adapters.weights import PairReader
from worker.inference.adapters.weights_file import WeightsFile
from worker.inference.lora.adapter import LoraPair
from worker.inference.native.ready_memory import ReadyMemory

SCALE = 1.7
TYPES = (torch.float32, torch.bfloat16)


def stored(rank: int, inputs: int, outputs: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return {
        "lora_A": torch.randn(rank, inputs, generator=generator).to(dtype),
        "lora_B": torch.randn(outputs, rank, generator=generator).to(dtype),
    }


class RecordedMemory(ReadyMemory):
    """Tells which sizes were taken and prepared, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def take(self, size_bytes: int) -> mmap.mmap:
        self.asked.append(("take", size_bytes))
        return super().take(size_bytes)

    def prepare(self, size_bytes: int) -> None:
        self.asked.append(("prepare", size_bytes))
        super().prepare(size_bytes)


def read(folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype, ready: ReadyMemory | None = None) -> LoraPair:
    path = folder / "adapter_model.safetensors"
    save_file({f"base_model.model.l.{part}.weight": tensor for part, tensor in tensors.items()}, path)
    (rank, inputs), outputs = tensors["lora_A"].shape, len(tensors["lora_B"])
    shapes = {"l": PairShape(inputs, outputs, rank, SCALE, has_length=False)}
    reader = PairReader("digest", shapes, lambda _: torch.empty(0), torch.device("cpu"), dtype, ready or ReadyMemory())
    listed = FileDigest(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), bytes=path.stat().st_size)
    with path.open("rb") as content:
        file = WeightsFile("digest", content, listed)
        pairs = reader.read(file)
        file.check_digest()
    return pairs["l"]


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("kept", TYPES, ids=str)
@pytest.mark.parametrize("given", TYPES, ids=str)
def test_factors_are_turned_scaled_and_rounded_once(
    tmp_path: Path, given: torch.dtype, kept: torch.dtype, rank: int
) -> None:
    tensors = stored(rank, 12, 20, given)
    pair = read(tmp_path, tensors, kept)
    assert pair.a_RI.equal(tensors["lora_A"].to(kept))
    assert pair.b_RO.equal((tensors["lora_B"].float() * SCALE).to(kept).t())
    assert pair.b_RO.is_contiguous()


@pytest.mark.skipif(sys.platform != "linux", reason="it is asked of Linux' kernel")
@pytest.mark.parametrize(("inputs", "is_huge"), [(3 * 2**12, True), (2**8, False)])
def test_a_large_adapter_is_on_huge_pages_and_a_small_one_is_not(tmp_path: Path, inputs: int, is_huge: bool) -> None:
    if not gives_huge_pages():
        pytest.skip("this kernel gives none")
    tensors = stored(256, inputs, 2**12, torch.bfloat16)
    before = on_huge_pages()
    pair = read(tmp_path, tensors, torch.float32)
    assert pair.a_RI.equal(tensors["lora_A"].float())
    taken = on_huge_pages() - before
    assert taken > pair.bytes // 2 if is_huge else taken < 2**22


def test_a_large_adapter_takes_what_the_last_one_had_prepared(tmp_path: Path) -> None:
    tensors, ready = stored(256, 3 * 2**12, 2**12, torch.bfloat16), RecordedMemory()
    pairs = [read(tmp_path, tensors, torch.float32, ready) for _ in range(2)]
    [(_, size_bytes), *_] = ready.asked
    assert ready.asked == [("take", size_bytes), ("prepare", size_bytes)] * 2
    assert pairs[0].bytes <= size_bytes < 1.01 * pairs[0].bytes
    assert all(pair.b_RO.equal((tensors["lora_B"].float() * SCALE).t()) for pair in pairs)
