import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM
from transformers.activations import GELUTanh, NewGELUActivation

from core.base_models.registry import read_imported
from core.errors import BaseModelInvalid
from tests.harness.models.tiny_models import save_as_imported, write_tiny_llama, write_tiny_phi
from worker.models import precision
from worker.models.loading import load_base_model
from worker.models.precision import resolve_dtype

IDS_BT = torch.tensor([[72, 101, 108, 108, 111]])


@pytest.fixture(scope="module")
def tiny_phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi(tmp_path_factory.mktemp("bases") / "tiny-phi")


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("bases") / "tiny-llama")


def test_gives_the_logits_that_transformers_alone_gives(tiny_phi: Path) -> None:
    ours = load_base_model(tiny_phi, dtype="float32").model
    reference = AutoModelForCausalLM.from_pretrained(tiny_phi, dtype=torch.float32).eval()
    assert any(isinstance(module, NewGELUActivation) for module in reference.modules())
    with torch.no_grad():
        expected = reference(input_ids=IDS_BT).logits
        assert torch.allclose(ours(input_ids=IDS_BT).logits, expected, atol=1e-4)


def test_the_unfused_gelu_is_replaced(tiny_phi: Path) -> None:
    modules = list(load_base_model(tiny_phi, dtype="float32").model.modules())
    assert sum(isinstance(module, GELUTanh) for module in modules) == 2
    assert not any(isinstance(module, NewGELUActivation) for module in modules)


def test_everything_is_frozen_and_without_dropout(tiny_phi: Path) -> None:
    model = load_base_model(tiny_phi, dtype="float32").model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    model.train()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS_BT).logits, model(input_ids=IDS_BT).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loads_in_the_type_that_is_asked_for(tiny_phi: Path, dtype: str) -> None:
    loaded = load_base_model(tiny_phi, dtype=dtype)  # type: ignore[arg-type]
    assert loaded.dtype == getattr(torch, dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {loaded.dtype}


def test_the_pad_token_does_not_freeze_the_closing_tokens_embedding(tiny_llama: Path) -> None:
    """tiny_llama's config names the closing token as the pad token."""
    loaded = load_base_model(tiny_llama, dtype="float32")
    embedding = loaded.model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert embedding.padding_idx is None
    assert embedding.weight[loaded.tokenizer.eos_id].norm() > 0


def test_tells_what_the_import_recorded(tiny_llama: Path) -> None:
    loaded, imported = load_base_model(tiny_llama, dtype="float32"), read_imported(tiny_llama)
    assert (loaded.fingerprint, loaded.context_tokens) == (imported.fingerprint, imported.context_tokens)


def test_a_folder_that_was_not_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelInvalid, match="loramill base-models import"):
        load_base_model(tmp_path / "absent")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_phi(tmp_path / "tiny-phi")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(BaseModelInvalid):
        load_base_model(folder, dtype="float32")


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    folder = write_tiny_phi(tmp_path / "tiny-phi")
    config = (folder / "config.json").read_text()
    remote = '{"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},'
    (folder / "config.json").write_text(
        config.replace("{", remote, 1).replace('"model_type": "phi"', '"model_type": "x"')
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BaseModelInvalid):
        load_base_model(folder, dtype="float32")
    assert not (tmp_path / "ran").exists()


def test_a_torn_weight_file_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_phi(tmp_path / "tiny-phi")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseModelInvalid):
        load_base_model(folder, dtype="float32")


def test_a_missing_tensor_is_refused_rather_than_drawn_at_random(tmp_path: Path) -> None:
    folder = write_tiny_phi(tmp_path / "tiny-phi")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelInvalid, match=r"model\.layers\.1\.mlp\.fc1\.weight"):
        load_base_model(folder, dtype="float32")


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_only_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda: fast)
    assert resolve_dtype("auto") == expected
    assert resolve_dtype("float32") == torch.float32


def test_a_model_that_torchs_attention_cannot_compute_is_loaded_with_its_own(tmp_path: Path) -> None:
    """As Gemma 2, which squeezes its scores."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Gemma2Config(vocab_size=320, num_key_value_heads=1, head_dim=16, **sizes)
    folder = save_as_imported(Gemma2ForCausalLM(config), tmp_path / "gemma-2", "gemma-2")
    assert load_base_model(folder, dtype="float32").model(input_ids=IDS_BT).logits.isfinite().all()


@pytest.mark.parametrize(("seconds", "best_s", "tries"), [(0.1, 0.1, 3), (0.001, 0.001, 6)])
def test_a_product_that_is_hopeless_twice_is_not_timed_again(
    monkeypatch: pytest.MonkeyPatch, seconds: float, best_s: float, tries: int
) -> None:
    clock = itertools.count()
    monkeypatch.setattr("worker.models.precision.time.perf_counter", lambda: (next(clock) + 1) // 2 * seconds)
    found_s = precision._best_product_s(torch.ones(1, 1), torch.ones(1, 1), hopeless_s=0.01)
    assert found_s == pytest.approx(best_s)
    assert next(clock) == 2 * tries
