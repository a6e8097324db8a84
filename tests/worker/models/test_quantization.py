"""What is told to transformers, and the refusals. Nothing is loaded in 4 bits: the tests' machines have no GPU."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from transformers import BitsAndBytesConfig

from core.errors import QuantizationUnavailable
from tests.harness.models.tiny_models import write_tiny_phi
from worker.models import quantization
from worker.models.loading import load_base_model
from worker.models.quantization import quantized


def test_without_a_gpu_a_base_model_is_not_loaded_in_4_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QuantizationUnavailable, match="needs a CUDA GPU"):
        load_base_model(write_tiny_phi(tmp_path / "tiny-phi"), dtype="float32", quantization="nf4")


class TestWithAGpu:
    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)

    def test_the_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quantization, "find_spec", lambda _: None)
        with pytest.raises(QuantizationUnavailable, match=r"loramill\[quantized\]"):
            quantized("nf4", torch.bfloat16)

    def test_the_configuration_is_qloras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quantization, "find_spec", lambda name: ModuleSpec(name, None))
        told = quantized("nf4", torch.bfloat16)
        config = told["quantization_config"]
        assert isinstance(config, BitsAndBytesConfig)
        assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
        assert config.bnb_4bit_use_double_quant
        assert config.bnb_4bit_compute_dtype == torch.bfloat16
        assert told["device_map"] == {"": 3}
