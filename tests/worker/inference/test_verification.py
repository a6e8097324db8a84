"""Hostile and damaged adapters: each is refused by name, and the engine still answers."""

import copy
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
from safetensors.torch import load_file, save_file

from core.adapter_format import CONFIG, MANIFEST, WEIGHTS
from core.errors import AdapterInvalid
from core.store.blobs import LocalBlobStore
from tests.worker.inference.bench import (
    Bench,
    Completion,
    complete,
    complete_adapter,
    edit_config,
    load_fp32,
    make_request,
    store_adapter,
    write_adapter,
)
from worker.inference.engine import LocalEngine
from worker.inference.lora import Adapter, RowPlan, attach_lora
from worker.inference.verification import Fit, read_adapter

FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
LENGTH = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"

Tensors = dict[str, torch.Tensor]


class Suspect:
    """An adapter's folder for a test to spoil, and the reading of it for the tiny Phi."""

    def __init__(self, folder: Path, base_folder: Path, fit: Fit) -> None:
        self.folder = folder
        self.base_folder = base_folder
        self.fit = fit
        self.blobs = LocalBlobStore(folder.parent / "store")

    def store(self) -> str:
        return store_adapter(self.folder, self.blobs)

    def complete(self, **changes: Any) -> None:
        """Write the manifest over what the folder holds now."""
        complete_adapter(self.base_folder, self.folder, **changes)

    def read(self, digest: str | None = None, *, limit_bytes: int = 2**24) -> Adapter:
        return read_adapter(digest or self.store(), self.blobs, self.fit, limit_bytes=limit_bytes)

    def refusal(self, digest: str | None = None, *, limit_bytes: int = 2**24) -> str:
        """Give the reason for which reading it, or this digest, must be refused."""
        digest = self.store() if digest is None else digest
        with pytest.raises(AdapterInvalid) as caught:
            read_adapter(digest, self.blobs, self.fit, limit_bytes=limit_bytes)
        assert caught.value.args[0] == digest
        return str(caught.value.args[1])

    def change_tensors(self, change: Callable[[Tensors], object]) -> None:
        tensors = load_file(self.folder / WEIGHTS)
        change(tensors)
        save_file(tensors, self.folder / WEIGHTS)
        self.complete()

    def stored(self, name: str) -> Path:
        sha256 = self.blobs.put_file(self.folder / name).sha256
        return next((self.folder.parent / "store").rglob(sha256))


@pytest.fixture(scope="module")
def sound_folder(tiny_phi_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "sound"
    write_adapter(tiny_phi_folder, folder)
    return folder


@pytest.fixture(scope="module")
def fit(tiny_phi_folder: Path) -> Fit:
    loaded = load_fp32(tiny_phi_folder)
    layers = attach_lora(loaded.model, RowPlan())
    return Fit(loaded.fingerprint, loaded.tokenizer, layers, loaded.device, loaded.dtype)


@pytest.fixture
def suspect(sound_folder: Path, tiny_phi_folder: Path, fit: Fit, tmp_path: Path) -> Suspect:
    return Suspect(Path(shutil.copytree(sound_folder, tmp_path / "adapter")), tiny_phi_folder, fit)


def test_a_sound_adapter_is_read(suspect: Suspect) -> None:
    adapter = suspect.read()
    tensors = load_file(suspect.folder / WEIGHTS)
    pair = adapter.pairs["model.layers.0.self_attn.q_proj"]
    assert torch.equal(pair.a_RI, tensors[FIRST])
    assert pair.scale == 2
    assert len(adapter.pairs) * 2 == len(tensors)
    assert adapter.bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_the_engine_answers_after_each_refusal(bench: Bench, suspect: Suspect) -> None:
    bench.blobs = suspect.blobs
    digests = ["../../etc/passwd", suspect.blobs.put_bytes(b"no manifest").sha256]
    suspect.change_tensors(lambda tensors: set_value(tensors, float("nan")))
    digests.append(suspect.store())
    (suspect.folder / WEIGHTS).write_bytes(pickle.dumps({FIRST: [1.0]}))
    suspect.complete()
    digests.append(suspect.store())

    async def work(engine: LocalEngine) -> list[Completion]:
        answers = []
        for digest in digests:
            with pytest.raises(AdapterInvalid):
                await complete(engine, make_request("x", adapter=digest, max_tokens=2))
            with pytest.raises(AdapterInvalid):
                await engine.warm(digest)
            answers.append(await complete(engine, make_request("x", max_tokens=2)))
        assert (await engine.info()).resident_adapters == ()
        return answers

    expected = bench.peft_greedy(None, b"x", 2)
    assert [answer.ids for answer in bench.run(work)] == [expected] * len(digests)


@pytest.mark.parametrize("rank", [4, 16])
def test_rslora_scales_by_the_root_of_the_rank(tiny_phi_folder: Path, fit: Fit, tmp_path: Path, rank: int) -> None:
    write_adapter(tiny_phi_folder, tmp_path / "adapter", rank=rank, use_rslora=True)
    adapter = Suspect(tmp_path / "adapter", tiny_phi_folder, fit).read()
    assert {pair.scale for pair in adapter.pairs.values()} == {2 * rank / rank**0.5}


class TestDora:
    @pytest.fixture
    def dora(self, tiny_phi_folder: Path, fit: Fit, tmp_path: Path) -> Suspect:
        write_adapter(tiny_phi_folder, tmp_path / "dora", use_dora=True)
        return Suspect(tmp_path / "dora", tiny_phi_folder, fit)

    def test_its_lengths_become_gains_of_the_outputs_and_count_as_memory(self, dora: Suspect) -> None:
        adapter = dora.read()
        tensors = load_file(dora.folder / WEIGHTS)
        gain_O = adapter.pairs["model.layers.0.self_attn.q_proj"].gain_O
        assert gain_O is not None
        weight_OI = dora.fit.layers["model.layers.0.self_attn.q_proj"].weight
        row = weight_OI[0] + 2 * tensors[FIRST.replace("_A", "_B")][0] @ tensors[FIRST]
        assert float(gain_O[0]) == pytest.approx(float(tensors[LENGTH][0] / row.norm()), rel=1e-5)
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
        self, dora: Suspect, change: Callable[[Tensors], object], reason: str
    ) -> None:
        dora.change_tensors(change)
        assert reason in dora.refusal()

    def test_a_row_of_length_zero_is_refused(self, dora: Suspect) -> None:
        layer = copy.deepcopy(dora.fit.layers["model.layers.0.self_attn.q_proj"])
        layer.weight.data[0] = 0
        dora.fit = dataclasses.replace(dora.fit, layers={**dora.fit.layers, "model.layers.0.self_attn.q_proj": layer})
        dora.change_tensors(lambda tensors: tensors[FIRST.replace("_A", "_B")].zero_())
        assert "length 0" in dora.refusal()


def set_value(tensors: Tensors, value: float) -> None:
    tensors[FIRST][0, 0] = value


class TestTensors:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda t: t.update({FIRST: torch.zeros(4, 81)}), f"'{FIRST}' has shape [4, 81], the base"),
            (lambda t: t.update({FIRST: torch.zeros(5, 80)}), f"'{FIRST}' has shape [5, 80]"),
            (lambda t: t.update({FIRST: torch.zeros(4, 80, dtype=torch.float64)}), f"'{FIRST}' is torch.float64"),
            (lambda t: set_value(t, float("nan")), f"'{FIRST}' has values that are not finite"),
            (lambda t: set_value(t, float("inf")), f"'{FIRST}' has values that are not finite"),
            (lambda t: t.pop(FIRST), "layer model.layers.0.self_attn.q_proj has no lora_A"),
            (lambda t: t.pop(FIRST.replace("_A", "_B")), "layer model.layers.0.self_attn.q_proj has no lora_B"),
            (lambda t: t.update({"extra": torch.zeros(1)}), "'extra' belongs to no target module"),
            (lambda t: t.update({FIRST.replace("layers.0", "layers.7"): torch.zeros(4, 80)}), "layers.7"),
            (lambda t: t.update({f"../../{FIRST}": torch.zeros(4, 80)}), f"'../../{FIRST}' belongs to no target"),
            (lambda t: t.update({FIRST.replace("lora_A", "lora_magnitude_vector"): torch.zeros(4)}), "magnitude"),
            (lambda t: t.clear(), "has no lora_A"),
        ],
    )
    def test_a_tensor_that_does_not_fit_is_named(
        self, suspect: Suspect, change: Callable[[Tensors], object], reason: str
    ) -> None:
        suspect.change_tensors(change)
        assert reason in suspect.refusal()

    def test_values_that_the_models_dtype_cannot_hold_are_refused(self, suspect: Suspect) -> None:
        suspect.change_tensors(lambda tensors: set_value(tensors, torch.finfo(torch.float32).max))
        suspect.read()
        suspect.fit = dataclasses.replace(suspect.fit, dtype=torch.bfloat16)
        assert f"'{FIRST}' has values that are not finite" in suspect.refusal()


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
    def test_what_is_no_safetensors_file_is_refused(self, suspect: Suspect, content: bytes) -> None:
        (suspect.folder / WEIGHTS).write_bytes(content)
        suspect.complete()
        assert WEIGHTS in suspect.refusal()

    def test_a_truncated_file_is_refused(self, suspect: Suspect) -> None:
        path = suspect.folder / WEIGHTS
        path.write_bytes(path.read_bytes()[:-4])
        suspect.complete()
        assert WEIGHTS in suspect.refusal()

    def test_a_file_over_the_limit_is_not_even_read(self, suspect: Suspect) -> None:
        (suspect.folder / WEIGHTS).write_bytes(bytes(2**24))
        suspect.complete()
        digest = suspect.store()
        suspect.stored(WEIGHTS).unlink()
        assert "are allowed" in suspect.refusal(digest, limit_bytes=2**20)


class TestStore:
    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
    def test_a_flipped_bit_is_refused(self, suspect: Suspect, name: str) -> None:
        digest = suspect.store()
        content = bytearray(suspect.stored(name).read_bytes())
        content[-1] ^= 1
        suspect.stored(name).write_bytes(content)
        assert name in suspect.refusal(digest)

    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
    def test_a_missing_file_is_refused(self, suspect: Suspect, name: str) -> None:
        digest = suspect.store()
        suspect.stored(name).unlink()
        assert "not stored" in suspect.refusal(digest)

    @pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    def test_what_is_no_digest_is_refused(self, suspect: Suspect, digest: str) -> None:
        assert "not stored" in suspect.refusal(digest)


class TestManifest:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"base_model_fingerprint": "f" * 64}, "fingerprint"),
            ({"tokenizer_sha256": "0" * 64}, "tokenizer"),
        ],
    )
    def test_an_adapter_of_another_base_model_is_refused(
        self, suspect: Suspect, changes: dict[str, str], reason: str
    ) -> None:
        suspect.complete(**changes)
        assert reason in suspect.refusal()

    @pytest.mark.parametrize("name", ["../adapter_model.safetensors", "/etc/passwd", "adapter_model.bin"])
    def test_a_file_name_of_its_own_is_refused(self, suspect: Suspect, name: str) -> None:
        manifest = json.loads((suspect.folder / MANIFEST).read_text())
        manifest["files"][name] = manifest["files"].pop(WEIGHTS)
        assert "manifest" in suspect.refusal(self._put(suspect, manifest))

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
    def test_what_is_no_manifest_is_refused(self, suspect: Suspect, content: bytes) -> None:
        assert "manifest" in suspect.refusal(suspect.blobs.put_bytes(content).sha256)

    def test_a_size_that_is_not_the_files_is_refused(self, suspect: Suspect) -> None:
        suspect.store()
        manifest = json.loads((suspect.folder / MANIFEST).read_text())
        manifest["files"][WEIGHTS]["bytes"] += 1
        assert "the manifest says" in suspect.refusal(self._put(suspect, manifest))

    def _put(self, suspect: Suspect, manifest: dict[str, Any]) -> str:
        return suspect.blobs.put_bytes(json.dumps(manifest).encode()).sha256


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
            ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
            ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
            ({"layers_to_transform": [0]}, "layers_to_transform"),
            ({"fan_in_fan_out": True}, "fan_in_fan_out"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights"),
            ({"invented_next_year": 1}, "invented_next_year"),
            ({"r": 257}, "r:"),
            ({"r": 0}, "r:"),
            ({"r": "4"}, "r:"),
            ({"lora_alpha": 0}, "lora_alpha"),
            ({"lora_alpha": float("nan")}, "lora_alpha"),
            ({"target_modules": "(a+)+"}, "target_modules"),
            ({"target_modules": []}, "target_modules"),
            ({"target_modules": ["q_proj", "nothing"]}, "'nothing' names no linear layer"),
        ],
    )
    def test_what_the_engine_does_not_implement_is_refused_by_key(
        self, suspect: Suspect, changes: dict[str, Any], named: str
    ) -> None:
        edit_config(suspect.folder, **changes)
        suspect.complete()
        assert named in suspect.refusal()

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 60_000, b" " * (2**16 + 1)])
    def test_what_is_no_config_is_refused(self, suspect: Suspect, content: bytes) -> None:
        (suspect.folder / CONFIG).write_bytes(content)
        suspect.complete()
        assert CONFIG in suspect.refusal()

    def test_target_modules_by_their_whole_names_are_found(self, bench: Bench) -> None:
        digest = bench.add_adapter(targets=["model.layers.1.mlp.fc1"], std=1.0)
        [answer] = bench.complete(make_request("x", adapter=digest, max_tokens=6))
        assert answer.ids == bench.peft_greedy(digest, b"x", 6)
