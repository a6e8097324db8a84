"""The registry, the operator's file, and how an imported base model is identified."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.base_models.registry import (
    BUILT_IN,
    IMPORTED_FILE,
    OPERATOR_FILE,
    BaseModelEntry,
    Folder,
    GgufPackage,
    Hub,
    ImportedModel,
    Registry,
    compute_fingerprint,
    folder_of,
    read_imported,
    weight_files,
)
from core.base_models.tensor_files import MAX_HEADER_BYTES, list_tensors
from core.errors import BaseModelInvalid, InvalidParameter, ModelNotFound

COMMIT = "a" * 40


def write_registry(folder: Path, text: str) -> None:
    (folder / OPERATOR_FILE).write_text(text, "utf-8")


class TestRegistry:
    def test_built_in_models_are_there_without_any_file(self, tmp_path: Path) -> None:
        registry = Registry.load(tmp_path / "not-made-yet")
        assert registry.names == ("phi-2", "smollm2-135m-instruct")
        assert isinstance(registry.get("phi-2").source, Hub)

    def test_an_unknown_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="gpt-9"):
            Registry.load(tmp_path).get("gpt-9")

    @pytest.mark.parametrize(
        "source",
        [
            Hub(id="Owner/Model-0.5B", revision=COMMIT),
            Folder(path=Path('/models/with "quotes" é 🙂')),
            GgufPackage(package="some_package", file="model.gguf", sha256="0" * 64),
        ],
    )
    def test_an_added_entry_reads_back_the_same(self, tmp_path: Path, source: Hub | Folder | GgufPackage) -> None:
        entry = BaseModelEntry(
            name="model-0.5b", source=source, fingerprint="f" * 64, learning_rate=3e-5, dtype="float32"
        )
        registry = Registry.load(tmp_path)
        registry.add(entry)
        assert registry.get("model-0.5b") == entry
        assert Registry.load(tmp_path).get("model-0.5b") == entry

    def test_adding_keeps_what_another_process_added(self, tmp_path: Path) -> None:
        one, two = Registry.load(tmp_path), Registry.load(tmp_path)
        one.add(BaseModelEntry(name="one", source=Folder(path=Path("/models/one"))))
        two.add(BaseModelEntry(name="two", source=Folder(path=Path("/models/two"))))
        assert {"one", "two"} <= set(Registry.load(tmp_path).names)

    def test_adding_keeps_the_operators_comments(self, tmp_path: Path) -> None:
        write_registry(tmp_path, '# ours\n[mine]\nfolder = "/models/mine"\n')
        Registry.load(tmp_path).add(BaseModelEntry(name="two", source=Folder(path=Path("/models/two"))))
        assert (tmp_path / OPERATOR_FILE).read_text("utf-8").startswith("# ours\n")

    def test_a_name_is_added_only_once(self, tmp_path: Path) -> None:
        entry = BaseModelEntry(name="one", source=Folder(path=Path("/models/one")))
        registry = Registry.load(tmp_path)
        registry.add(entry)
        with pytest.raises(InvalidParameter, match="already has one"):
            registry.add(entry)

    def test_the_operators_entry_wins_over_the_built_in(self, tmp_path: Path) -> None:
        write_registry(tmp_path, '[phi-2]\nfolder = "/models/phi-2"\n')
        assert Registry.load(tmp_path).get("phi-2").source == Folder(path=Path("/models/phi-2"))

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ('[m]\nhub = "a/b"\nrevison = "x"\n', "unknown key 'revison'"),
            (f'[qwen2.5]\nhub = "a/b"\nrevision = "{COMMIT}"\n', "a name with a dot needs quotes"),
            ('[m]\nhub = "a/b"\nrevision = "main"\n', "revision"),
            ('[m]\nfolder = "models/m"\n', "must be absolute"),
            ("[m]\nlearning_rate = 1e-4\n", "exactly one of hub, folder, package"),
            ('[m]\nfolder = "/m"\nhub = "a/b"\n', "exactly one of hub, folder, package"),
            ('[m]\nfolder = "/m"\nrevision = "x"\n', "revision"),
            ('[m]\nfolder = "/m"\nlearning_rate = 0\n', "learning_rate"),
            ('["../m"]\nfolder = "/m"\n', "name"),
            ('["base_models.toml"]\nfolder = "/m"\n', "name"),
            ('folder = "/m"\n', "outside a table"),
            ("[m\n", "not TOML"),
        ],
    )
    def test_a_mistake_in_the_operators_file_is_named(self, tmp_path: Path, text: str, complaint: str) -> None:
        write_registry(tmp_path, text)
        with pytest.raises(BaseModelInvalid) as caught:
            Registry.load(tmp_path)
        assert complaint in str(caught.value)
        assert str(tmp_path / OPERATOR_FILE) in str(caught.value)


def write_model(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], shards: int = 1) -> Path:
    folder.mkdir()
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        placed = {name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors" for index, name in enumerate(names)}
        for file in set(placed.values()):
            save_file({name: tensors[name] for name in names if placed[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (folder / "tokenizer.json").write_text('{"model": 1}')
    (folder / "config.json").write_text('{"model_type": "phi", "hidden_size": 4}')
    return folder


@pytest.fixture
def tensors() -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.arange(6, dtype=np.float32).reshape(2, 3) + start for start, name in enumerate("cab")}


class TestFingerprint:
    def test_it_does_not_depend_on_sharding(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        whole = write_model(tmp_path / "whole", tensors)
        sharded = write_model(tmp_path / "sharded", tensors, shards=2)
        assert compute_fingerprint(whole) == compute_fingerprint(sharded)

    def test_it_does_not_depend_on_who_wrote_the_config(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        folder = write_model(tmp_path / "model", tensors)
        before = compute_fingerprint(folder)
        (folder / "config.json").write_text(
            '{"hidden_size":4,"_name_or_path":"x","transformers_version":"9","model_type":"phi"}'
        )
        assert compute_fingerprint(folder) == before

    def test_any_change_that_matters_changes_it(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        folder = write_model(tmp_path / "model", tensors)
        seen = [compute_fingerprint(folder)]
        (folder / "config.json").write_text('{"model_type": "phi", "hidden_size": 5}')
        seen.append(compute_fingerprint(folder))
        (folder / "tokenizer.json").write_text('{"model": 2}')
        seen.append(compute_fingerprint(folder))
        variants = [
            tensors | {"c": tensors["c"] + np.float32(1e-6)},  # one number
            tensors | {"c": tensors["c"].reshape(3, 2)},  # a shape
            tensors | {"c": tensors["c"].view(np.int32)},  # a dtype over the same bytes
            {"d" if name == "c" else name: value for name, value in tensors.items()},  # a name
        ]
        for variant in variants:
            save_file(variant, folder / "model.safetensors")
            seen.append(compute_fingerprint(folder))
        assert len(set(seen)) == len(seen)

    def test_a_tensor_in_two_shards_is_refused(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        folder = write_model(tmp_path / "model", tensors, shards=2)
        first, second = weight_files(folder)
        shutil.copyfile(first, second)
        with pytest.raises(BaseModelInvalid, match="more than one"):
            compute_fingerprint(folder)

    def test_a_missing_shard_is_named(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        folder = write_model(tmp_path / "model", tensors, shards=2)
        weight_files(folder)[1].unlink()
        with pytest.raises(BaseModelInvalid, match=r"lacks model-00002-of-00002\.safetensors"):
            compute_fingerprint(folder)

    @pytest.mark.parametrize("name", ["../model.safetensors", "/etc/x.safetensors", "model.bin"])
    def test_an_index_cannot_lead_out_of_its_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(BaseModelInvalid, match="not a safetensors file of its folder"):
            weight_files(tmp_path)


class TestListTensors:
    def test_it_agrees_with_the_safetensors_library(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        path = tmp_path / "x.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        content = path.read_bytes()
        for tensor in list_tensors(path):
            assert content[tensor.offset : tensor.offset + tensor.bytes] == tensors[tensor.name].tobytes()
            assert (tensor.dtype, tensor.shape) == ("F32", (2, 3))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x02",
            (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
            (100).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (2).to_bytes(8, "little") + b"{{",
            (10).to_bytes(8, "little") + b'{"a": {} }',
        ],
    )
    def test_what_is_no_safetensors_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(BaseModelInvalid, match="not a safetensors file"):
            list_tensors(path)

    def test_a_file_cut_short_is_refused(self, tmp_path: Path, tensors: dict[str, Any]) -> None:
        path = tmp_path / "x.safetensors"
        save_file(tensors, path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BaseModelInvalid, match="cut short"):
            list_tensors(path)


class TestReadImported:
    def test_what_was_written_reads_back(self, tmp_path: Path) -> None:
        imported = ImportedModel(name="phi-2", fingerprint="0" * 64, source=BUILT_IN[0].source, context_tokens=2048)
        folder = folder_of(tmp_path, "phi-2")
        folder.mkdir()
        (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
        assert read_imported(folder) == imported

    def test_a_missing_model_names_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(BaseModelInvalid, match="loramill base-models import phi-2"):
            read_imported(folder_of(tmp_path, "phi-2"))

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / IMPORTED_FILE).write_text('{"name": "phi-2"')
        with pytest.raises(BaseModelInvalid, match="is damaged"):
            read_imported(tmp_path)


def test_reading_the_registry_loads_no_model_library() -> None:
    heavy = "{'torch', 'transformers', 'safetensors', 'numpy'}"
    code = f"import sys, core.base_models.registry; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
