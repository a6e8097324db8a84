"""One test for each known way in which a base model is not one that can be computed with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from core.base_models.registry import BaseModelEntry, Folder, Registry, folder_of, read_config
from core.errors import BaseModelInvalid
from tests.harness.models.tiny_models import write_tiny_phi
from worker.models import precision
from worker.models.importing import import_base_model
from worker.models.loading import load_base_model
from worker.models.precision import resolve_dtype

IDS_BT = torch.tensor([[72, 101, 108, 108, 111]])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_phi(tmp_path / "source")


def import_it(source: Path) -> Path:
    """Import the folder as a base model; gives the new folder."""
    models = source.parent / "base-models"
    Registry.load(models).add(BaseModelEntry(name="mine", source=Folder(path=source)))
    import_base_model(models, "mine")
    return folder_of(models, "mine")


class TestTrap20:
    """What is rotated of a head's width is an even whole number; tiny-phi's heads are 20 wide."""

    @staticmethod
    def set_share(source: Path, share: float, *, as_phi_2_has_it: bool) -> None:
        config: dict[str, Any] = read_config(source)
        rope = config.pop("rope_parameters")
        if as_phi_2_has_it:
            config |= {"partial_rotary_factor": share, "rope_theta": rope["rope_theta"]}
        else:
            config["rope_parameters"] = rope | {"partial_rotary_factor": share}
        (source / "config.json").write_text(json.dumps(config))

    @pytest.mark.parametrize("as_phi_2_has_it", [True, False])
    @pytest.mark.parametrize(("share", "named"), [(0.43, "8.6"), (0.25, "5"), (0.38, "7.6")])
    def test_trap_20_heads_that_cannot_be_rotated_are_refused_at_import(
        self, source: Path, share: float, named: str, as_phi_2_has_it: bool
    ) -> None:
        self.set_share(source, share, as_phi_2_has_it=as_phi_2_has_it)
        with pytest.raises(BaseModelInvalid, match=f"width 20 and partial_rotary_factor {share}, so {named} values"):
            import_it(source)
        assert not folder_of(source.parent / "base-models", "mine").exists()

    @pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 1.0])
    def test_trap_20_heads_that_can_be_rotated_are_imported_and_run(self, source: Path, share: float) -> None:
        self.set_share(source, share, as_phi_2_has_it=True)
        loaded = load_base_model(import_it(source), dtype="float32")
        with torch.no_grad():
            assert loaded.model(input_ids=IDS_BT).logits.isfinite().all()


class TestTrap21:
    """Nothing is computed in float16, in which Phi's attention scores overflow, whatever a release is stored in."""

    @pytest.mark.parametrize("fast", [True, False])
    def test_trap_21_a_release_in_float16_is_loaded_in_another_type(
        self, source: Path, fast: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights = load_file(source / "model.safetensors")
        halves = {name: tensor.half() for name, tensor in weights.items()}
        save_file(halves, source / "model.safetensors", metadata={"format": "pt"})
        (source / "config.json").write_text(json.dumps(read_config(source) | {"dtype": "float16"}))
        monkeypatch.setattr(precision, "fast_bf16", lambda: fast)
        loaded = load_base_model(import_it(source))
        expected = torch.bfloat16 if fast else torch.float32
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {loaded.dtype} == {expected}
        with torch.no_grad():
            assert loaded.model(input_ids=IDS_BT).logits.dtype == expected

    def test_trap_21_float16_cannot_be_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match="dtype"):
            BaseModelEntry.model_validate({"name": "mine", "source": {"path": "/mine"}, "dtype": "float16"})
        (tmp_path / "base_models.toml").write_text('[mine]\nfolder = "/mine"\ndtype = "float16"\n')
        with pytest.raises(BaseModelInvalid, match="dtype"):
            Registry.load(tmp_path)

    @pytest.mark.parametrize(
        ("capability", "expected"), [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
    )
    def test_trap_21_a_gpu_without_bfloat16_computes_in_float32(
        self, capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        assert resolve_dtype("auto") == expected
