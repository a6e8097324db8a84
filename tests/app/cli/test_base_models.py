"""`loramill base-models`, on a registry and a tiny imported model."""

import json
from pathlib import Path

import pytest

from app.cli import base_models
from core.base_models.registry import Folder, Registry
from core.errors import ModelNotFound, SettingsInvalid
from core.settings import Settings
from tests.harness.models.tiny_models import write_tiny_llama


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, base_models=("tiny",))


def add_folder(settings: Settings, name: str) -> Path:
    """Register a tiny model under its own imported folder, and give that."""
    folder = settings.base_models_folder / name
    base_models.add(settings, name, hub=None, revision=None, folder=folder, learning_rate=None)
    return write_tiny_llama(folder)


def test_an_added_base_model_is_in_the_registry(settings: Settings, tmp_path: Path) -> None:
    base_models.add(settings, "tiny", hub=None, revision=None, folder=tmp_path / "weights", learning_rate=0.01)
    entry = Registry.load(settings.base_models_folder).get("tiny")
    assert (entry.source, entry.learning_rate) == (Folder(path=tmp_path / "weights"), 0.01)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "either --hub"),
        ({"hub": "a/b"}, "either --hub"),
        ({"revision": "a" * 40}, "either --hub"),
        ({"hub": "a/b", "revision": "main"}, "revision: "),
        ({"hub": "a/b", "revision": "a" * 40, "folder": Path("/x")}, "either --hub"),
    ],
)
def test_half_a_source_is_refused(settings: Settings, options: dict[str, object], sentence: str) -> None:
    given = {"hub": None, "revision": None, "folder": None, "learning_rate": None} | options
    with pytest.raises(SettingsInvalid, match=sentence):
        base_models.add(settings, "tiny", **given)  # type: ignore[arg-type]


def test_the_list_tells_what_is_served_and_imported(settings: Settings) -> None:
    add_folder(settings, "tiny")
    rows = {row["name"]: row for row in json.loads(base_models.show(settings, as_json=True))}
    assert (rows["tiny"]["served"], rows["tiny"]["imported"], rows["tiny"]["context_tokens"]) == (True, True, 256)
    assert (rows["phi-2"]["served"], rows["phi-2"]["imported"]) == (False, False)
    assert "hub microsoft/phi-2 at ef382358ec9e" in base_models.show(settings, as_json=False)


def test_damage_to_the_weights_is_found(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    folder = add_folder(settings, "tiny")
    assert base_models.verify(settings, [], as_json=False)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not base_models.verify(settings, ["tiny"], as_json=False)
    output = capsys.readouterr().out
    assert "tiny: verified" in output
    assert "tiny: its files have the fingerprint" in output


def test_a_base_model_that_no_registry_has_is_refused(settings: Settings) -> None:
    with pytest.raises(ModelNotFound):
        base_models.verify(settings, ["nobody"], as_json=False)
