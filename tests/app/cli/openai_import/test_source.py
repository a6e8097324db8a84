"""Exports in a folder: which files are the job and the data, and what is missing; an account without a client."""

import json
import sys
from pathlib import Path

import pytest

from app.cli.openai_import.source import Account, ExportFolder
from core.errors import StartRefused
from tests.harness.servers.fake_openai import JOB


def write_job(folder: Path, name: str, job_id: str) -> None:
    (folder / name).write_text(json.dumps(JOB | {"id": job_id}))


def test_the_only_job_of_a_folder_needs_no_name(tmp_path: Path) -> None:
    write_job(tmp_path, "anything.json", "ftjob-1")
    (tmp_path / "file.json").write_text('{"object": "file"}')
    assert ExportFolder(tmp_path, None).job()["id"] == "ftjob-1"


def test_of_several_jobs_one_is_named(tmp_path: Path) -> None:
    write_job(tmp_path, "a.json", "ftjob-1")
    write_job(tmp_path, "b.json", "ftjob-2")
    assert ExportFolder(tmp_path, "ftjob-2").job()["id"] == "ftjob-2"
    with pytest.raises(StartRefused, match="several jobs: ftjob-1, ftjob-2; name one"):
        ExportFolder(tmp_path, None).job()
    with pytest.raises(StartRefused, match="has no job ftjob-3"):
        ExportFolder(tmp_path, "ftjob-3").job()


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(StartRefused, match=r"job.json is no JSON"):
        ExportFolder(tmp_path, None).job()


def test_a_file_is_found_by_its_id_and_by_nothing_else(tmp_path: Path) -> None:
    folder, target = tmp_path / "exports", tmp_path / "target"
    folder.mkdir()
    (folder / "file-a.jsonl").write_bytes(b"{}\n")
    (folder / "file-a.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("secret")
    source = ExportFolder(folder, None)
    source.fetch("file-a", target)
    assert target.read_bytes() == b"{}\n"
    for missing in ("file-b", "../secret", "*"):
        with pytest.raises(StartRefused, match="has no file"):
            source.fetch(missing, target)
    (folder / "file-a.csv").write_bytes(b"a\n")
    with pytest.raises(StartRefused, match=r"several files of one id: file-a.csv, file-a.jsonl"):
        source.fetch("file-a", target)


def test_without_openais_client_an_account_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(StartRefused, match=r"pip install 'loramill\[openai\]'"):
        Account("ftjob-1", None).job()
