import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import serve
from benchmarks.host.processes import ROOT
from benchmarks.serve import SECTIONS, BenchmarkWork, run


@pytest.fixture
def work(tmp_path: Path) -> BenchmarkWork:
    return BenchmarkWork(Console(quiet=True), tmp_path / "smollm2", None, tmp_path, is_quick=True)


def test_a_partial_run_leaves_the_other_sections_as_they_are(
    work: BenchmarkWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "SECTIONS", {"cold": lambda _: {"cold_load_ms": 5.0}, "probe": lambda _: {"read": 1}})
    file = tmp_path / "serve.json"
    assert run(work, ("probe",), file) == []
    before = json.loads(file.read_text())["sections"]["probe"]
    assert run(work, ("cold",), file) == []
    written = json.loads(file.read_text())
    assert written["sections"]["probe"] == before
    assert written["cold_load_ms"] == 5.0
    assert written["sections"]["cold"]["machine"]["at"]


def test_a_section_that_fails_is_named_and_the_next_is_measured(
    work: BenchmarkWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: BenchmarkWork) -> dict[str, Any]:
        raise RuntimeError("no")

    monkeypatch.setattr(serve, "SECTIONS", {"load": fail, "probe": lambda _: {"read": 1}})
    file = tmp_path / "serve.json"
    assert run(work, ("load", "probe"), file) == ["load"]
    assert set(json.loads(file.read_text())["sections"]) == {"probe"}


def test_there_is_a_section_for_each_kind_of_figure() -> None:
    assert set(SECTIONS) == {"probe", "decode", "correctness", "http", "load", "cold", "start"}


def test_an_unknown_section_is_refused_by_name() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve", "speed"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "there is no section 'speed'" in ended.stderr
