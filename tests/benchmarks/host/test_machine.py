import json
from pathlib import Path

import pytest

from benchmarks.host import machine
from benchmarks.serving import results
from core.process.cpu_levels import Level
from core.settings import CpuLevel


@pytest.fixture(autouse=True)
def results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    return tmp_path


def be_a_machine(monkeypatch: pytest.MonkeyPatch, level: CpuLevel, cores: int) -> None:
    monkeypatch.setattr(machine, "choose_level", lambda _: Level(level, (), frozenset()))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))


def test_a_machine_is_named_by_its_level_and_its_cores(monkeypatch: pytest.MonkeyPatch, results_folder: Path) -> None:
    be_a_machine(monkeypatch, "avx512_bf16", 16)
    assert machine.name_machine() == "avx512_bf16-16-cores"
    assert machine.result_file("train") == results_folder / "avx512_bf16-16-cores" / "train.json"
    about = machine.describe()
    assert (about["cpu_level"], about["cores"]) == ("avx512_bf16", 16)


@pytest.mark.parametrize(("level", "cores"), [("avx512_bf16", 2), ("avx2", 4)])
def test_a_machine_does_not_write_over_anothers_result(
    monkeypatch: pytest.MonkeyPatch, level: CpuLevel, cores: int
) -> None:
    be_a_machine(monkeypatch, "avx2", 2)
    first = machine.result_file("serve")
    results.merge(first, "cold", {"cold_load_ms": 100.0})
    written = first.read_bytes()
    be_a_machine(monkeypatch, level, cores)
    results.merge(machine.result_file("serve"), "cold", {"cold_load_ms": 7.0})
    assert first.read_bytes() == written
    be_a_machine(monkeypatch, "avx2", 2)
    assert json.loads(machine.result_file("serve").read_text())["cold_load_ms"] == 100.0
