"""A model is served only if our blocks compute what transformers does, and nothing remembered of it condemns one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import BaseModelInvalid
from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from tests.harness.models.served_models import copy_with_tensor, serve_fp32
from worker.inference.model.ops import TorchOps
from worker.inference.model.runner_building import build_runner
from worker.models.reference import Reference, write_reference
from worker.models.serving import EngineModel, StoredModel, open_engine_model

ASKED_AGAIN = "it is asked again"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, engine_native=False)


def remember(folder: Path, settings: Settings) -> tuple[EngineModel, StoredModel]:
    """Open a model of which transformers has been asked before."""
    for _ in range(2):
        served = open_engine_model(folder, settings.references_folder, dtype="float32")
    assert isinstance(served.source, StoredModel)
    assert served.source.is_remembered
    return served, served.source


def wrong_logits(reference: Reference) -> Reference:
    return replace(reference, logits_KV=reference.logits_KV + torch.randn_like(reference.logits_KV))


def wrong_angles(reference: Reference) -> Reference:
    return replace(reference, frequencies_E=reference.frequencies_E.flip(0))


def wrong_scale(reference: Reference) -> Reference:
    numbers = reference.numbers
    wrong = numbers.model_copy(update={"attention_scale": 2 * numbers.attention_scale})
    return replace(reference, numbers=wrong)


@pytest.mark.parametrize("change", [wrong_logits, wrong_angles, wrong_scale])
def test_a_wrong_memory_is_noticed_and_replaced(
    tiny_llama_folder: Path, settings: Settings, change: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(change)
    _, stored = remember(tiny_llama_folder, settings)
    write_reference(stored.kept_in, stored.fingerprint, change(stored.reference))
    served, _ = remember(tiny_llama_folder, settings)
    build_runner(served, settings)
    assert ASKED_AGAIN in caplog.text
    caplog.clear()
    build_runner(remember(tiny_llama_folder, settings)[0], settings)
    assert ASKED_AGAIN not in caplog.text


@pytest.mark.parametrize("operation", ["gated_silu", "attend", "rms_norm"])
def test_a_block_that_computes_something_else_is_refused(
    tiny_llama_folder: Path, settings: Settings, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(TorchOps, operation)

    def wrong(*arguments: object) -> Tensor:
        result: Tensor = right(*arguments)
        return result * 1.01

    served, _ = remember(tiny_llama_folder, settings)
    monkeypatch.setattr(TorchOps, operation, wrong)
    with pytest.raises(BaseModelInvalid, match="computes other logits than transformers does"):
        build_runner(served, settings)


def test_logits_that_are_no_numbers_are_refused(tiny_llama_folder: Path, tmp_path: Path, settings: Settings) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    broken = copy_with_tensor(tiny_llama_folder, tmp_path / "base", name, lambda weight: weight[0].fill_(torch.nan))
    with pytest.raises(BaseModelInvalid, match="nan of their spread"):
        build_runner(open_engine_model(broken, settings.references_folder, dtype="float32"), settings)


def test_weights_that_were_replaced_where_they_lie_are_what_is_served(
    tiny_llama_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """The folder still says the fingerprint that it was imported with."""
    remember(tiny_llama_folder, settings)
    name = "model.layers.0.mlp.up_proj.weight"
    replaced = copy_with_tensor(tiny_llama_folder, tmp_path / "base", name, lambda weight: weight.mul_(2))
    (replaced / "loramill.json").write_bytes((tiny_llama_folder / "loramill.json").read_bytes())
    served, _ = remember(replaced, settings)
    build_runner(served, settings)


def test_the_kernels_are_of_the_level_that_is_asked_for(tiny_llama_folder: Path) -> None:
    settings = Settings(home=home_with_kernels(), engine_cpu_level="portable")
    runner = build_runner(serve_fp32(tiny_llama_folder), settings)
    if runner.kernels is None:
        pytest.skip("no C++ compiler is at hand")
    assert runner.kernels.startswith("kernels-portable-")
