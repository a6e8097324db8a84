"""A base model is opened for an engine: of our own blocks without transformers, where that was asked before."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from core.base_models.registry import BaseModelEntry, Folder, Registry, folder_of
from core.errors import BaseModelInvalid
from tests.conftest import ROOT
from tests.harness.models.tiny_models import save_as_imported, write_tiny_llama, write_tiny_phi
from worker.models import reference_taking
from worker.models.importing import import_base_model
from worker.models.reference import BESIDE_MODEL
from worker.models.serving import StoredModel, open_engine_model

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_phi(tmp_path / "base")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return tmp_path / "references"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of which transformers is asked, in order."""
    folders: list[Path] = []
    take = reference_taking.take_reference

    def note(folder: Path) -> Any:
        folders.append(folder)
        return take(folder)

    monkeypatch.setattr(reference_taking, "take_reference", note)
    return folders


def open_stored(folder: Path, references: Path) -> StoredModel:
    source = open_engine_model(folder, references, dtype="float32").source
    assert isinstance(source, StoredModel)
    return source


def test_transformers_is_asked_once(folder: Path, references: Path, asked: list[Path]) -> None:
    assert [open_stored(folder, references).is_remembered for _ in range(3)] == [False, True, True]
    assert asked == [folder]


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """The folder of a model that was imported; an import asks as well."""
    models = tmp_path / "base-models"
    Registry.load(models).add(BaseModelEntry(name="mine", source=Folder(path=write_tiny_phi(tmp_path / "source"))))
    import_base_model(models, "mine")
    return folder_of(models, "mine")


def test_an_imported_model_has_been_asked_about(imported: Path, references: Path, asked: list[Path]) -> None:
    assert open_stored(imported, references).is_remembered
    assert (asked, references.exists()) == ([], False)


def test_where_nothing_can_be_kept_it_is_asked_each_time_and_that_is_said(
    folder: Path, tmp_path: Path, asked: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert not open_stored(folder, tmp_path / "file" / "references").is_remembered
    assert len(asked) == 2
    assert "cannot be written" in caplog.text


def test_a_damaged_file_beside_the_model_is_left_and_one_in_the_home_is_used(
    folder: Path, references: Path, asked: list[Path]
) -> None:
    (folder / BESIDE_MODEL).write_bytes(b"damaged")
    assert [open_stored(folder, references).is_remembered for _ in range(2)] == [False, True]
    assert len(asked) == 1
    assert (folder / BESIDE_MODEL).read_bytes() == b"damaged"


def _gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=16))


def _llama_of_growing_angles() -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope))


@pytest.mark.parametrize("make", [_gemma, _llama_of_growing_angles])
def test_a_model_that_our_blocks_do_not_compute_is_transformers(
    make: Callable[[], PreTrainedModel], references: Path, tmp_path: Path
) -> None:
    served = open_engine_model(save_as_imported(make(), tmp_path / "base", "made"), references, dtype="float32")
    assert isinstance(served.source, PreTrainedModel)


def test_weights_under_other_names_than_the_modules_are_left_to_transformers(references: Path, tmp_path: Path) -> None:
    """As the decoder alone is saved; its head is tied to its embedding."""
    folder = write_tiny_llama(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert isinstance(open_engine_model(folder, references, dtype="float32").source, PreTrainedModel)


def _drop(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def _turn(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = tensors[name].T.contiguous()


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("change", [_drop, _turn])
def test_a_tensor_that_is_missing_or_turned_is_named(
    folder: Path,
    references: Path,
    change: Callable[[dict[str, Tensor], str], None],
    is_known: bool,
) -> None:
    if is_known:
        open_engine_model(folder, references, dtype="float32")
    name = "model.layers.1.mlp.fc1.weight"
    tensors = load_file(folder / "model.safetensors")
    change(tensors, name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelInvalid, match=r"model\.layers\.1\.mlp\.fc1\.weight"):
        open_engine_model(folder, references, dtype="float32")


def test_tensors_beyond_the_models_are_nobodys(folder: Path, references: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    open_stored(folder, references)


@pytest.mark.slow
def test_opening_imports_transformers_only_to_ask_it(folder: Path, references: Path, tmp_path: Path) -> None:
    def imports_transformers(folder: Path) -> bool:
        code = (
            "import sys; from pathlib import Path; from worker.models.serving import open_engine_model;"
            f"open_engine_model(Path({str(folder)!r}), Path({str(references)!r}), dtype='float32');"
            "print('transformers' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip() == "True"

    assert imports_transformers(folder)
    assert not imports_transformers(folder.rename(tmp_path / "moved"))
