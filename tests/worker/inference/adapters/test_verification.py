"""Hostile and damaged adapters: each is refused by name, and the engine still answers."""

import dataclasses
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file

from core.errors import AdapterMismatch
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from tests.worker.inference.adapters.adapter_files import (
    edit_config,
    fit_of,
    load_fp32,
    write_adapter,
)
from tests.worker.inference.adapters.spoiled_adapter import SpoiledAdapter, Tensors
from tests.worker.inference.engine_harness import EngineHarness, make_request
from worker.inference.adapters.verification import Fit

FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
FIRST_B = FIRST.replace("_A", "_B")
LAYER = "model.layers.0.self_attn.q_proj"
LENGTH = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"


@pytest.fixture(scope="module")
def sound_folder(tiny_phi_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "sound"
    write_adapter(tiny_phi_folder, folder)
    return folder


@pytest.fixture(scope="module")
def fit(tiny_phi_folder: Path) -> Fit:
    return fit_of(load_fp32(tiny_phi_folder))


@pytest.fixture
def spoiled(sound_folder: Path, tiny_phi_folder: Path, fit: Fit, tmp_path: Path) -> SpoiledAdapter:
    return SpoiledAdapter(Path(shutil.copytree(sound_folder, tmp_path / "adapter")), tiny_phi_folder, fit)


def test_a_sound_adapter_is_read(spoiled: SpoiledAdapter) -> None:
    adapter = spoiled.read()
    tensors = load_file(spoiled.folder / WEIGHTS)
    assert torch.equal(adapter.pairs[LAYER].a_RI, tensors[FIRST])
    assert len(adapter.pairs) * 2 == len(tensors)
    assert adapter.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert adapter.rank == 4


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_b_is_scaled_in_float32_rounded_once_and_turned(
    spoiled: SpoiledAdapter, stored: torch.dtype, kept: torch.dtype
) -> None:
    edit_config(spoiled.folder, lora_alpha=11)  # a scale that is no power of two rounds
    spoiled.change_tensors(lambda tensors: tensors.update({k: v.to(stored) for k, v in tensors.items()}))
    spoiled.fit = dataclasses.replace(spoiled.fit, dtype=kept)
    pair = spoiled.read().pairs[LAYER]
    tensors = load_file(spoiled.folder / WEIGHTS)
    assert torch.equal(pair.a_RI, tensors[FIRST].to(kept))
    assert torch.equal(pair.b_RO, (tensors[FIRST_B].float() * (11 / 4)).to(kept).T)
    assert pair.a_RI.is_contiguous()
    assert pair.b_RO.is_contiguous()


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(
    ("ranks", "alphas"),
    [
        ({}, {}),
        ({"q_proj": 8, "model.layers.1.mlp.fc2": 1}, {}),
        ({}, {"q_proj": 3, "self_attn.dense": 7}),
        ({"^model.layers.1.self_attn.q_proj": 2, "q_proj": 16}, {r".*\.fc1": 5, "layers.0.mlp.fc1": 9}),
    ],
)
def test_each_layers_delta_is_pefts(
    tiny_phi_folder: Path,
    fit: Fit,
    tmp_path: Path,
    use_rslora: bool,
    ranks: dict[str, int],
    alphas: dict[str, int],
) -> None:
    folder = tmp_path / "adapter"
    write_adapter(tiny_phi_folder, folder, use_rslora=use_rslora, rank_pattern=ranks, alpha_pattern=alphas)
    adapter = SpoiledAdapter(folder, tiny_phi_folder, fit).read()
    peft = PeftModel.from_pretrained(load_fp32(tiny_phi_folder).model, folder)
    deltas_OI = {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default")
        for name, layer in peft.named_modules()
        if isinstance(layer, Linear)
    }
    assert adapter.pairs.keys() == deltas_OI.keys()
    for name, pair in adapter.pairs.items():
        torch.testing.assert_close(pair.b_RO.T @ pair.a_RI, deltas_OI[name])
    assert adapter.rank == max(4, *ranks.values(), 0)


def test_an_adapter_wider_than_the_engine_has_room_for_is_refused(spoiled: SpoiledAdapter) -> None:
    spoiled.fit = dataclasses.replace(spoiled.fit, max_rank=3)
    assert "has rank 4, and this engine has room for 3; raise LORAMILL_ENGINE_LORA_COLUMNS" in spoiled.refusal()


def test_a_packed_layer_needs_no_weight_of_its_own(spoiled: SpoiledAdapter) -> None:
    def weight_of(name: str) -> torch.Tensor:
        raise AssertionError(f"the weight of {name} is not needed for plain LoRA")

    spoiled.fit = dataclasses.replace(spoiled.fit, weight_of=weight_of)
    spoiled.read()


class TestDora:
    @pytest.fixture
    def dora(self, tiny_phi_folder: Path, fit: Fit, tmp_path: Path) -> SpoiledAdapter:
        write_adapter(tiny_phi_folder, tmp_path / "dora", use_dora=True)
        return SpoiledAdapter(tmp_path / "dora", tiny_phi_folder, fit)

    def test_its_lengths_become_gains_of_the_outputs_and_count_as_memory(self, dora: SpoiledAdapter) -> None:
        adapter = dora.read()
        tensors = load_file(dora.folder / WEIGHTS)
        magnitude_scale_O = adapter.pairs[LAYER].magnitude_scale_O
        assert magnitude_scale_O is not None
        weight_OI = dora.fit.weight_of(LAYER)
        row = weight_OI[0] + 2 * tensors[FIRST_B][0] @ tensors[FIRST]
        assert float(magnitude_scale_O[0]) == pytest.approx(float(tensors[LENGTH][0] / row.norm()), rel=1e-5)
        assert adapter.bytes == sum(tensor.nbytes for tensor in tensors.values())

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda t: t.pop(LENGTH), "has no lora_magnitude_vector"),
            (lambda t: t.update({LENGTH: torch.ones(3)}), "has shape [3]"),
            (lambda t: t.update({LENGTH: torch.full_like(t[LENGTH], float("nan"))}), "not finite"),
            (lambda t: t.update({f"{LENGTH}.weight": t[LENGTH].clone()}), "belongs to no target module"),
        ],
    )
    def test_a_length_that_does_not_fit_is_named(
        self, dora: SpoiledAdapter, change: Callable[[Tensors], object], reason: str
    ) -> None:
        dora.change_tensors(change)
        assert reason in dora.refusal()

    def test_a_row_of_length_zero_is_refused(self, dora: SpoiledAdapter) -> None:
        weight_of = dora.fit.weight_of

        def without_first_row(name: str) -> torch.Tensor:
            weight_OI = weight_of(name).clone()
            weight_OI[0] = 0
            return weight_OI

        dora.fit = dataclasses.replace(dora.fit, weight_of=without_first_row)
        dora.change_tensors(lambda tensors: tensors[FIRST_B].zero_())
        assert "length 0" in dora.refusal()


def set_value(tensors: Tensors, value: float) -> None:
    tensors[FIRST][0, 0] = value


class TestTensors:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda t: t.update({FIRST: torch.zeros(4, 81)}), f"'{FIRST}' has shape [4, 81], the base"),
            (lambda t: t.update({FIRST: torch.zeros(5, 80)}), f"'{FIRST}' has shape [5, 80]"),
            (lambda t: t.update({FIRST: torch.zeros(4, 80, dtype=torch.float64)}), f"'{FIRST}' as 'F64'"),
            (lambda t: set_value(t, float("nan")), f"'{FIRST}' has values that are not finite"),
            (lambda t: set_value(t, float("inf")), f"'{FIRST}' has values that are not finite"),
            (lambda t: t.pop(FIRST), "layer model.layers.0.self_attn.q_proj has no lora_A"),
            (lambda t: t.pop(FIRST_B), "layer model.layers.0.self_attn.q_proj has no lora_B"),
            (lambda t: t.update({"extra": torch.zeros(1)}), "'extra' belongs to no target module"),
            (lambda t: t.update({FIRST.replace("layers.0", "layers.7"): torch.zeros(4, 80)}), "layers.7"),
            (lambda t: t.update({f"../../{FIRST}": torch.zeros(4, 80)}), f"'../../{FIRST}' belongs to no target"),
            (lambda t: t.update({FIRST.replace("lora_A", "lora_magnitude_vector"): torch.zeros(4)}), "magnitude"),
            (lambda t: t.clear(), "has no lora_A"),
        ],
    )
    def test_a_tensor_that_does_not_fit_is_named(
        self, spoiled: SpoiledAdapter, change: Callable[[Tensors], object], reason: str
    ) -> None:
        spoiled.change_tensors(change)
        assert reason in spoiled.refusal()

    def test_values_that_the_models_dtype_cannot_hold_are_refused(self, spoiled: SpoiledAdapter) -> None:
        spoiled.change_tensors(lambda tensors: set_value(tensors, torch.finfo(torch.float32).max))
        spoiled.read()
        spoiled.fit = dataclasses.replace(spoiled.fit, dtype=torch.bfloat16)
        assert f"'{FIRST}' has values that are not finite" in spoiled.refusal()


class TestWeightsFile:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"short",
            pickle.dumps({FIRST: [1.0]}),
            struct.pack("<Q", 2**40) + b"{}",
            struct.pack("<Q", 2**23 + 1) + b" " * (2**23 + 1),
            struct.pack("<Q", 2) + b"{]",
            struct.pack("<Q", 4) + b"null",
            struct.pack("<Q", 8) + b'{"a":{}}',
        ],
        ids=["empty", "short", "pickle", "header-past-end", "giant-header", "not-json", "null", "no-fields"],
    )
    def test_what_is_no_safetensors_file_is_refused(self, spoiled: SpoiledAdapter, content: bytes) -> None:
        (spoiled.folder / WEIGHTS).write_bytes(content)
        spoiled.complete()
        assert WEIGHTS in spoiled.refusal()

    def test_a_truncated_file_is_refused(self, spoiled: SpoiledAdapter) -> None:
        path = spoiled.folder / WEIGHTS
        path.write_bytes(path.read_bytes()[:-4])
        spoiled.complete()
        assert WEIGHTS in spoiled.refusal()

    def test_a_file_larger_than_the_adapter_can_be_is_not_even_read(self, spoiled: SpoiledAdapter) -> None:
        (spoiled.folder / WEIGHTS).write_bytes(bytes(2**22))
        spoiled.complete()
        digest = spoiled.store()
        spoiled.stored(WEIGHTS).unlink()
        assert "are allowed" in spoiled.refusal(digest)

    def test_damage_on_the_disk_is_told_before_what_it_did_to_the_contents(self, spoiled: SpoiledAdapter) -> None:
        digest = spoiled.store()
        content = bytearray(spoiled.stored(WEIGHTS).read_bytes())
        content[-4:] = struct.pack("<f", float("nan"))
        spoiled.stored(WEIGHTS).write_bytes(content)
        assert "damaged" in spoiled.refusal(digest)


class TestStore:
    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
    def test_a_flipped_bit_is_refused(self, spoiled: SpoiledAdapter, name: str) -> None:
        digest = spoiled.store()
        content = bytearray(spoiled.stored(name).read_bytes())
        content[-1] ^= 1
        spoiled.stored(name).write_bytes(content)
        assert name in spoiled.refusal(digest)

    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
    def test_a_missing_file_is_refused(self, spoiled: SpoiledAdapter, name: str) -> None:
        digest = spoiled.store()
        spoiled.stored(name).unlink()
        assert "not stored" in spoiled.refusal(digest)

    @pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    def test_what_is_no_digest_is_refused(self, spoiled: SpoiledAdapter, digest: str) -> None:
        assert "not stored" in spoiled.refusal(digest)


class TestManifest:
    def test_an_adapter_of_another_base_model_is_a_mismatch(self, spoiled: SpoiledAdapter) -> None:
        spoiled.complete(base_model_fingerprint="f" * 64)
        assert "fingerprint" in spoiled.refusal(kind=AdapterMismatch)

    def test_another_tokenizer_is_refused(self, spoiled: SpoiledAdapter) -> None:
        spoiled.complete(tokenizer_sha256="0" * 64)
        assert "tokenizer" in spoiled.refusal(kind=AdapterMismatch)

    def test_a_key_that_is_there_twice_is_refused(self, spoiled: SpoiledAdapter) -> None:
        content = (spoiled.folder / MANIFEST).read_bytes()
        spoiled.store()
        twice = content[:-1] + b',"base_model":"another"}'
        assert "'base_model' is there twice" in spoiled.refusal(spoiled.blobs.put_bytes(twice).sha256)

    @pytest.mark.parametrize("name", ["../adapter_model.safetensors", "/etc/passwd", "adapter_model.bin"])
    def test_a_file_name_of_its_own_is_refused(self, spoiled: SpoiledAdapter, name: str) -> None:
        manifest = json.loads((spoiled.folder / MANIFEST).read_text())
        manifest["files"][name] = manifest["files"].pop(WEIGHTS)
        assert "manifest" in spoiled.refusal(self._put(spoiled, manifest))

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
    def test_what_is_no_manifest_is_refused(self, spoiled: SpoiledAdapter, content: bytes) -> None:
        assert "manifest" in spoiled.refusal(spoiled.blobs.put_bytes(content).sha256)

    def test_a_size_that_is_not_the_files_is_refused(self, spoiled: SpoiledAdapter) -> None:
        spoiled.store()
        manifest = json.loads((spoiled.folder / MANIFEST).read_text())
        manifest["files"][WEIGHTS]["bytes"] += 1
        assert "the manifest says" in spoiled.refusal(self._put(spoiled, manifest))

    def _put(self, spoiled: SpoiledAdapter, manifest: dict[str, Any]) -> str:
        return spoiled.blobs.put_bytes(json.dumps(manifest).encode()).sha256


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"peft_type": "LOHA"}, "peft_type"),
            ({"bias": "all"}, "bias"),
            ({"use_dora": True}, "has no lora_magnitude_vector"),
            ({"use_dora": "false"}, "use_dora"),
            ({"use_rslora": 1}, "use_rslora"),
            ({"use_qalora": True}, "use_qalora"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
            ({"layers_to_transform": [0]}, "layers_to_transform"),
            ({"fan_in_fan_out": True}, "fan_in_fan_out"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights"),
            ({"invented_next_year": 1}, "invented_next_year"),
            ({"r": 257}, "r:"),
            ({"r": 0}, "r:"),
            ({"r": "4"}, "r:"),
            ({"lora_alpha": 0}, "lora_alpha"),
            ({"lora_alpha": float("nan")}, "NaN is no JSON number"),
            ({"target_modules": "(a+)+"}, "target_modules"),
            ({"target_modules": []}, "target_modules"),
            ({"target_modules": ["q_proj", "nothing"]}, "'nothing' names no linear layer"),
        ],
    )
    def test_what_the_engine_does_not_implement_is_refused_by_key(
        self, spoiled: SpoiledAdapter, changes: dict[str, Any], named: str
    ) -> None:
        edit_config(spoiled.folder, **changes)
        spoiled.complete()
        assert named in spoiled.refusal()

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 60_000, b" " * (2**16 + 1)])
    def test_what_is_no_config_is_refused(self, spoiled: SpoiledAdapter, content: bytes) -> None:
        (spoiled.folder / CONFIG).write_bytes(content)
        spoiled.complete()
        assert CONFIG in spoiled.refusal()

    def test_target_modules_by_their_whole_names_are_found(self, harness: EngineHarness) -> None:
        digest = harness.add_adapter(targets=["model.layers.1.mlp.fc1"], std=1.0)
        [answer] = harness.complete(make_request("x", adapter=digest, max_tokens=6))
        assert answer.ids == harness.peft_greedy(digest, b"x", 6)
