"""Tensors are read by name from any number of files, as what was stored, and their absence is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import BaseModelInvalid
from worker.models.stored_weights import StoredWeights

CPU = torch.device("cpu")
TENSORS = {"a": torch.randn(3, 5).bfloat16(), "b": torch.randn(7).half(), "c": torch.randn(2, 2, dtype=torch.float64)}
SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2)}


def write_shards(folder: Path, *shards: dict[str, Tensor]) -> Path:
    names = [f"model-{number}.safetensors" for number in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name)
    weight_map = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path, {"a": TENSORS["a"], "b": TENSORS["b"]}, {"c": TENSORS["c"]})


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_what_torch_makes_of_the_stored_one(folder: Path, name: str, dtype: torch.dtype) -> None:
    found = StoredWeights(folder, CPU).read(name, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, TENSORS[name].to(dtype))


def test_what_was_read_is_no_longer_the_files(folder: Path) -> None:
    found = StoredWeights(folder, CPU).read("a", torch.bfloat16)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    assert torch.equal(found, TENSORS["a"])


def test_files_that_hold_all_and_more_pass(folder: Path) -> None:
    weights = StoredWeights(folder, CPU)
    weights.check({"a": (3, 5), "c": (2, 2)})
    assert "b" in weights
    assert "d" not in weights


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (SHAPES | {"d": (1,), "e": (1,)}, r"lacks 2 of the model's tensors, d among them"),
        (SHAPES | {"a": (5, 3)}, r"holds a in the shape \(3, 5\)"),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(
    folder: Path, asked: dict[str, tuple[int, ...]], said: str
) -> None:
    with pytest.raises(BaseModelInvalid, match=said):
        StoredWeights(folder, CPU).check(asked)


def test_numbers_that_cannot_be_computed_with_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": torch.zeros(3, dtype=torch.int8)})
    with pytest.raises(BaseModelInvalid, match="holds a as I8"):
        StoredWeights(tmp_path, CPU).check({"a": (3,)})


def test_a_file_that_is_cut_short_meanwhile_is_refused(folder: Path) -> None:
    weights = StoredWeights(folder, CPU)
    path = folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BaseModelInvalid, match="cut short"):
        weights.read("c", torch.float32)
