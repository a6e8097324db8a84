"""Importing base models from folders, packages and a hub: whole or not at all, and only what cannot run code."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PhiConfig, PhiForCausalLM

from core.base_models.registry import (
    BUILT_IN,
    IMPORTED_FILE,
    BaseModelEntry,
    Folder,
    Hub,
    Registry,
    compute_fingerprint,
    folder_of,
    read_config,
    read_imported,
)
from core.errors import BaseModelInvalid
from core.text.tokenizer import TextTokenizer
from tests.harness.models.tiny_models import write_tiny_phi
from worker.models.importing import import_base_model, link_folder, main
from worker.models.loading import load_base_model
from worker.models.reference import BESIDE_MODEL

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model's folder as people have it: with files that must not be taken along."""
    folder = write_tiny_phi(tmp_path / "source")
    (folder / IMPORTED_FILE).unlink()
    for name in ("modeling_phi.py", "pytorch_model.bin", "README.md", "training_args.pt"):
        (folder / name).write_text("raise SystemExit('this file was run')")
    return folder


@pytest.fixture
def models(tmp_path: Path, source: Path) -> Path:
    """A base-models folder whose registry names the source."""
    folder = tmp_path / "base-models"
    Registry.load(folder).add(BaseModelEntry(name="mine", source=Folder(path=source)))
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(read_config(folder) | changes))


def left_over(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir() if not path.name.endswith((".lock", ".toml")))


class TestFolder:
    def test_only_what_a_model_needs_is_taken(self, models: Path) -> None:
        assert import_base_model(models, "mine")
        assert {path.name for path in folder_of(models, "mine").iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            IMPORTED_FILE,
            BESIDE_MODEL,
        }
        assert left_over(models) == ["mine"]

    def test_the_result_describes_itself_and_loads(self, models: Path, source: Path) -> None:
        import_base_model(models, "mine")
        folder = folder_of(models, "mine")
        imported = read_imported(folder)
        assert imported.fingerprint == compute_fingerprint(folder) == compute_fingerprint(source)
        assert imported.source == Folder(path=source)
        assert load_base_model(folder, dtype="float32").context_tokens == imported.context_tokens == 256

    def test_a_second_import_does_nothing(self, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--folder", str(models), "mine"]) == 0
        assert "imported into" in capsys.readouterr().out
        before = (folder_of(models, "mine") / IMPORTED_FILE).stat()
        assert main(["--folder", str(models), "mine"]) == 0
        assert "already in" in capsys.readouterr().out
        after = (folder_of(models, "mine") / IMPORTED_FILE).stat()  # it may have been read
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_two_imports_at_once_import_once(self, models: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(import_base_model, models, "mine") for _ in range(2)]
            assert sorted(each.result() for each in done) == [False, True]

    def test_what_a_killed_import_left_is_cleared_away(self, models: Path) -> None:
        (models / ".mine~killed" / "model").mkdir(parents=True)
        (models / ".mine-too~running").mkdir()
        import_base_model(models, "mine")
        assert left_over(models) == [".mine-too~running", "mine"]

    def test_sharded_weights_are_taken_with_their_index(self, models: Path, source: Path) -> None:
        (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": {"any": "model-00001-of-00001.safetensors"}}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        (source / "consolidated.safetensors").write_bytes(b"the same weights again")
        import_base_model(models, "mine")
        assert sorted(path.name for path in folder_of(models, "mine").glob("*safetensors*")) == [
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
        ]

    def test_code_named_by_a_config_is_left_behind_where_transformers_has_its_own(
        self, models: Path, source: Path
    ) -> None:
        edit_config(source, auto_map={"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"})
        import_base_model(models, "mine")
        assert "auto_map" not in read_config(folder_of(models, "mine"))
        load_base_model(folder_of(models, "mine"), dtype="float32")

    def test_a_model_that_needs_its_own_code_is_refused(self, models: Path, source: Path) -> None:
        edit_config(source, model_type="my-arch", auto_map={"AutoModelForCausalLM": "modeling_phi.Mine"})
        with pytest.raises(BaseModelInvalid, match="code that comes with a model is never run"):
            import_base_model(models, "mine")
        assert left_over(models) == []

    def test_pickled_weights_are_refused(self, models: Path, source: Path) -> None:
        (source / "model.safetensors").unlink()
        with pytest.raises(BaseModelInvalid, match=r"only pickled weights \(pytorch_model\.bin"):
            import_base_model(models, "mine")

    def test_quantised_weights_are_refused(self, models: Path, source: Path) -> None:
        edit_config(source, quantization_config={"quant_method": "gptq"})
        with pytest.raises(BaseModelInvalid, match="quantised weights"):
            import_base_model(models, "mine")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_missing_file_is_named(self, models: Path, source: Path, name: str) -> None:
        (source / name).unlink()
        with pytest.raises(BaseModelInvalid, match=name):
            import_base_model(models, "mine")

    def test_another_fingerprint_than_registered_leaves_nothing_behind(self, models: Path, source: Path) -> None:
        entry = BaseModelEntry(name="pinned", source=Folder(path=source), fingerprint="0" * 64)
        Registry.load(models).add(entry)
        with pytest.raises(BaseModelInvalid, match=f"expected {'0' * 64}"):
            import_base_model(models, "pinned")
        assert left_over(models) == []

    def test_a_changed_registry_does_not_replace_a_model_in_use(self, models: Path, source: Path) -> None:
        import_base_model(models, "mine")
        other = shutil.copytree(source, source.with_name("other"))
        (models / "base_models.toml").write_text(f'[mine]\nfolder = "{other}"\n')
        with pytest.raises(BaseModelInvalid, match="another source"):
            import_base_model(models, "mine")

    def test_an_unknown_name_ends_with_a_sentence_and_status_1(
        self, models: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--folder", str(models), "gpt-9"]) == 1
        assert "gpt-9" in capsys.readouterr().err


class TestLinks:
    def test_they_are_the_model_that_an_import_would_make(self, models: Path, source: Path, tmp_path: Path) -> None:
        import_base_model(models, "mine")
        imported, linked = folder_of(models, "mine"), tmp_path / "linked"
        described = link_folder(source, linked)
        assert described == read_imported(linked)
        assert described == read_imported(imported).model_copy(update={"name": "source"})
        assert {path.name for path in linked.iterdir()} == {path.name for path in imported.iterdir()} - {BESIDE_MODEL}
        assert load_base_model(linked, dtype="float32").fingerprint == described.fingerprint

    def test_the_weights_stay_where_they_are_and_as_they_are(self, source: Path, tmp_path: Path) -> None:
        (source / "model.safetensors").chmod(0o400)
        before = {path.name: path.stat() for path in source.iterdir()}
        link_folder(source, tmp_path / "linked")
        assert (tmp_path / "linked" / "model.safetensors").readlink() == source / "model.safetensors"
        after = {path.name: path.stat() for path in source.iterdir()}
        assert {name: (stat.st_mtime_ns, stat.st_mode) for name, stat in before.items()} == {
            name: (stat.st_mtime_ns, stat.st_mode) for name, stat in after.items()
        }

    @pytest.mark.parametrize(("folder", "name"), [("Phi 2 (mine)", "phi-2--mine-"), ("...", "model"), ("-x", "x")])
    def test_they_are_named_after_the_folder(self, tmp_path: Path, source: Path, folder: str, name: str) -> None:
        assert link_folder(source.rename(tmp_path / folder), tmp_path / "linked").name == name

    def test_what_an_import_refuses_is_refused(self, source: Path, tmp_path: Path) -> None:
        edit_config(source, model_type="made-up")
        with pytest.raises(BaseModelInvalid, match="made-up"):
            link_folder(source, tmp_path / "linked")


def test_a_model_of_phi_2s_shape_and_tokenizer_imports_and_loads(tmp_path: Path, phi2_folder: Path) -> None:
    source = tmp_path / "source"
    config = PhiConfig.from_pretrained(
        phi2_folder, hidden_size=80, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    PhiForCausalLM(config).half().save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(phi2_folder / name, source / name)
    models = tmp_path / "base-models"
    Registry.load(models).add(BaseModelEntry(name="phi-2", source=Folder(path=source)))
    import_base_model(models, "phi-2")
    loaded = load_base_model(folder_of(models, "phi-2"), dtype="float32")
    assert loaded.context_tokens == 2048
    assert loaded.tokenizer.eos_id == 50256
    ids = torch.tensor([loaded.tokenizer.encode("def add(a, b):\n    return")])
    assert loaded.model(input_ids=ids).logits.shape == (1, ids.shape[1], 51_200)


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The three requests of a download: the tree of a commit, a file's head, a file."""

    files: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/owner/tiny/tree/{COMMIT}":
            body = json.dumps(
                [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                    for file in self.files.iterdir()
                ]
            ).encode()
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            body = (self.files / Path(path).name).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "ETag": f'"{Path(path).name}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output quiet."""


@pytest.fixture
def hub(source: Path) -> Iterator[str]:
    handler = type("Handler", (FakeHub,), {"files": source})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_what_is_there_is_found_without_a_model_library(models: Path) -> None:
    assert import_base_model(models, "mine")
    program = (
        "import sys; from pathlib import Path; from worker.models.importing import import_base_model; "
        f"assert not import_base_model(Path({str(models)!r}), 'mine'); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


class TestHub:
    @pytest.fixture
    def models(self, tmp_path: Path) -> Path:
        folder = tmp_path / "base-models"
        Registry.load(folder).add(BaseModelEntry(name="tiny", source=Hub(id="owner/tiny", revision=COMMIT)))
        return folder

    @staticmethod
    def run_import(models: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
        """Import in a process of its own: the hub's library reads its endpoint when it is imported."""
        return subprocess.run(
            [sys.executable, "-m", "worker.models.importing", "--folder", str(models), "tiny"],
            cwd=ROOT,
            env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(models / "cache"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
        )

    def test_a_repository_is_imported_at_its_commit_without_its_code(
        self, models: Path, source: Path, hub: str
    ) -> None:
        done = self.run_import(models, hub)
        assert done.returncode == 0, done.stderr
        folder = folder_of(models, "tiny")
        assert read_imported(folder).fingerprint == compute_fingerprint(source)
        assert not {"modeling_phi.py", "pytorch_model.bin"} & {path.name for path in folder.iterdir()}
        assert not (models / ".tiny.download").exists()

    @pytest.mark.slow  # the hub's client tries again for half a minute
    def test_an_unreachable_hub_is_told_in_one_sentence(self, models: Path) -> None:
        done = self.run_import(models, "http://127.0.0.1:9")
        assert done.returncode == 1
        assert "owner/tiny at revision 0123456789ab could not be downloaded" in done.stderr
        assert "Traceback" not in done.stderr
        assert not folder_of(models, "tiny").exists()


class TestSmollm2:
    def test_it_has_the_pinned_fingerprint(self, smollm2_folder: Path) -> None:
        assert (
            compute_fingerprint(smollm2_folder) == read_imported(smollm2_folder).fingerprint == BUILT_IN[1].fingerprint
        )

    def test_its_tokenizer_splits_digits_as_the_original_does(self, smollm2_folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
        # plain byte level would give "1", "0", "Ġ", "Ġ", "2": the second space would cling to the number
        assert tokenizer.encode("10  20").tokens == ["1", "0", "ĠĠ", "2", "0"]
        assert tokenizer.encode("In 2024").tokens == ["In", "Ġ", "2", "0", "2", "4"]

    def test_it_has_its_chat_template_and_ends_its_turns(self, smollm2_folder: Path) -> None:
        tokenizer = TextTokenizer.from_folder(smollm2_folder)
        assert tokenizer.chat_template is not None
        assert "<|im_start|>" in tokenizer.chat_template
        assert tokenizer.token_text(tokenizer.eos_id) == "<|im_end|>"

    def test_it_knows_the_capital_of_france(self, smollm2_folder: Path) -> None:
        loaded = load_base_model(smollm2_folder, dtype="float32")
        ids = torch.tensor([loaded.tokenizer.encode("The capital of France is")], device=loaded.device)
        with torch.no_grad():
            best = int(loaded.model(input_ids=ids).logits[0, -1].argmax())
        assert loaded.tokenizer.token_text(best) == " Paris"
