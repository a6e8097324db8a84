import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.inference.native import build
from worker.inference.native.build import load


@pytest.fixture
def quick_build(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without optimisation: what is built matters here, not how fast it is."""
    monkeypatch.setattr(build, "FLAGS", ("-std=c++17", "-O0", "-march=native", "-fPIC"))


def test_a_compiler_that_fails_means_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path) is None
    (record,) = caplog.records
    assert "/bin/false failed" in record.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_means_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "native") is None
    (record,) = caplog.records
    assert "no C++ compiler (g++, clang++, c++)" in record.getMessage()


def test_a_library_that_is_there_is_not_built_again(native_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in native_folder.iterdir()}
    assert load(native_folder) is not None
    assert {path: path.stat().st_mtime_ns for path in native_folder.iterdir()} == before


@pytest.mark.usefixtures("quick_build")
def test_two_builds_at_once_leave_one_library(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(load, [tmp_path, tmp_path]))
    assert None not in loaded
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


@pytest.mark.usefixtures("quick_build")
def test_kernels_that_differ_from_torch_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources = Path(shutil.copytree(build.SOURCES, tmp_path / "sources"))
    elementwise = sources / "elementwise.hpp"
    source = elementwise.read_text()
    elementwise.write_text(source.replace("0.044715f", "0.054715f"))
    assert elementwise.read_text() != source
    monkeypatch.setattr(build, "SOURCES", sources)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "native") is None
    (record,) = caplog.records
    assert "gelu_tanh in torch.float32 differs from torch" in record.getMessage()


def test_a_library_that_is_none_means_no_kernels(
    native_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for library in native_folder.iterdir():
        (tmp_path / library.name).write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path) is None
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage()


@pytest.mark.usefixtures("kernels")
def test_the_kernels_share_the_threads_of_torch() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    runtimes = {line.split()[-1] for line in maps if Path(line.split()[-1]).name.startswith(("libgomp", "libomp"))}
    assert len(runtimes) == 1
