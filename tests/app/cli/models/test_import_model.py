"""`loramill import-model` against an API on a socket."""

import json
import re
from pathlib import Path

import pytest

from core.serving.adapter_format import CONFIG, WEIGHTS
from tests.app.cli.command import Done, loramill
from tests.app.conftest import ApiHarness, serving
from tests.app.models.imports.sent_adapter import adapter, tar

FORMAT = {"prompt": "Q {{question}} A", "completion": " {{answer}}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, content in (adapter() | {"optimizer.pt": b"not sent"}).items():
        (folder / name).write_bytes(content)
    return folder


def run(harness: ApiHarness, *arguments: str | Path) -> Done:
    with serving(harness.app()) as url:
        return loramill(harness.settings.home, "import-model", *arguments, "--url", url, columns=200)


def test_a_folder_becomes_a_model_of_which_the_adapters_files_alone_are_sent(harness: ApiHarness, folder: Path) -> None:
    done = run(harness, folder, "--base-model", "tiny", "--prompt-format", "raw", "--suffix", "theirs")
    assert (done.returncode, done.stderr) == (0, "")
    assert "can be asked as ft:tiny:local:theirs:" in done.stdout
    assert "unverified rendering" in done.stdout


def test_an_archive_with_a_prompt_format_from_a_file(harness: ApiHarness, tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text(json.dumps(FORMAT))
    (tmp_path / "theirs.tar").write_bytes(tar(adapter() | {"README.md": b"hello"}))
    done = run(harness, tmp_path / "theirs.tar", "--base-model", "tiny", "--prompt-format", tmp_path / "format.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not read: README.md" in done.stdout


def test_what_was_exported_is_imported_without_another_word(harness: ApiHarness, folder: Path, tmp_path: Path) -> None:
    first = run(harness, folder, "--base-model", "tiny", "--prompt-format", "raw")
    [name] = re.findall(r"can be asked as (\S+)", first.stdout)
    with serving(harness.app()) as url:
        done = loramill(harness.settings.home, "export-model", name, tmp_path / "out", "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    again = run(harness, tmp_path / "out")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_refusal_is_the_apis_own(harness: ApiHarness, folder: Path, tmp_path: Path) -> None:
    done = run(harness, folder)
    assert done.returncode == 1
    assert "base_model: the adapter has no manifest.json" in done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"has no {CONFIG}" in run(harness, empty).stderr
