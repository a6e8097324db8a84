"""A base model is found by the registry's name or by a folder, imported or as transformers saved it."""

import shutil
from pathlib import Path

import pytest

from core.base_models.registry import IMPORTED_FILE, BaseModelEntry, Folder, Registry, read_imported
from core.errors import ModelNotFound
from loramill._base_model import find_base_model
from worker.models.loading import load_base_model


@pytest.fixture
def saved(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model as `save_pretrained` leaves it."""
    folder = shutil.copytree(tiny_llama, tmp_path / "My Llama")
    (folder / IMPORTED_FILE).unlink()
    return folder


def test_a_registered_name_is_imported_at_its_first_use(home: Path, tiny_llama: Path) -> None:
    entry = BaseModelEntry(name="mine", source=Folder(path=tiny_llama), learning_rate=0.01, dtype="float32")
    Registry.load(home / "base-models").add(entry)
    found = find_base_model("mine")
    assert (found.entry, found.folder) == (entry, home / "base-models" / "mine")
    assert found.imported == read_imported(found.folder)
    assert find_base_model("mine") == found


def test_an_imported_folder_is_used_as_it_is(tiny_llama: Path) -> None:
    found = find_base_model(tiny_llama)
    assert found.folder == tiny_llama
    assert found.entry.name == found.imported.name == "tiny-llama"


def test_a_folder_of_transformers_is_used_where_it_lies(saved: Path, tiny_llama: Path) -> None:
    found = find_base_model(str(saved))
    assert found.entry.name == "my-llama"
    assert found.imported.fingerprint == read_imported(tiny_llama).fingerprint
    assert load_base_model(found.folder, dtype="float32").fingerprint == found.imported.fingerprint
    assert not (saved / IMPORTED_FILE).exists()


def test_a_folder_is_read_again_only_when_it_has_changed(saved: Path) -> None:
    first = find_base_model(saved)
    assert find_base_model(saved).folder == first.folder
    config = saved / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert find_base_model(saved).imported.fingerprint != first.imported.fingerprint


def test_a_name_that_is_nowhere_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="nonesuch"):
        find_base_model("nonesuch")
