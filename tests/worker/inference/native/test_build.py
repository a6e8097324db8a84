import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch import Tensor

from core.process.cpu_levels import list_levels, list_own_levels
from tests.conftest import ROOT
from tests.harness.models.kernels import write_compiler, write_copying_compiler
from worker.inference.native.build import load
from worker.inference.native.kernels import Kernels
from worker.native import compiling
from worker.native.compiling import ENGINE, TRAINER, Sources, find_or_compile


@pytest.fixture(autouse=True)
def nothing_prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout in which nobody compiled beforehand."""
    monkeypatch.setattr(compiling, "PREBUILT", tmp_path / "nothing")


@pytest.fixture
def quick_compiler(
    native_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that copies: what matters here is who has a library built, and when."""
    [built] = native_folder.glob(f"{ENGINE.name}-{list_own_levels()[0].name}-*.so")
    monkeypatch.setenv("CXX", str(write_copying_compiler(tmp_path_factory.mktemp("bin") / "compiler", built)))


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


def test_a_library_that_is_there_is_not_built_again(native_folder: Path, tmp_path: Path) -> None:
    for library in native_folder.glob("*.so"):  # into a folder that no other process builds in
        shutil.copy(library, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert load(tmp_path) is not None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("quick_compiler")
def test_two_builds_at_once_leave_one_library(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(load, [tmp_path, tmp_path]))
    assert None not in loaded
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_of_two_processes_one_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    write_compiler(compiler, f'echo "$output" >> {calls}', "sleep 0.2", 'touch "$output"')
    monkeypatch.setenv("CXX", str(compiler))
    program = (
        "from pathlib import Path; from core.process import cpu_levels; from worker.native import compiling; "
        f"compiling.PREBUILT = Path('nothing'); folder = Path({str(tmp_path / 'native')!r}); "
        "print(compiling.find_or_compile(compiling.ENGINE, folder, cpu_levels.list_own_levels()[0]))"
    )
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    libraries = {process.communicate()[0].strip() for process in processes}
    assert len(libraries) == 1
    assert [Path(call).name for call in calls.read_text().splitlines()].count("kernels.so") == 1


def test_kernels_that_differ_from_torch_are_not_used(
    native_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = Kernels.gelu_tanh

    def differing(self: Kernels, out_NI: Tensor, x_NI: Tensor) -> None:
        usual(self, out_NI, x_NI)
        out_NI.mul_(1.002)

    monkeypatch.setattr(Kernels, "gelu_tanh", differing)
    with caplog.at_level(logging.WARNING):
        assert load(native_folder) is None
    (record,) = caplog.records
    assert "gelu_tanh in torch.float32 differs from torch" in record.getMessage()


def test_a_library_that_is_none_means_no_kernels(
    native_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for library in native_folder.glob("*.so"):
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


@pytest.mark.usefixtures("quick_compiler")
def test_what_is_compiled_before_torch_is_imported_is_what_the_engine_loads(tmp_path: Path) -> None:
    ahead = """
import sys
from pathlib import Path
from worker.native import compiling

compiling.compile_ahead(compiling.ENGINE, Path(sys.argv[1])).join()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", ahead, str(tmp_path)], cwd=ROOT, check=True)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 1
    assert load(tmp_path) is not None
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("quick_compiler")
def test_what_was_compiled_beforehand_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    level = list_own_levels()[0]
    assert compiling.main([str(tmp_path / "prebuilt")]) == 0
    monkeypatch.setattr(compiling, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setenv("CXX", "/bin/false")
    kernels = load(tmp_path / "native", level.name)
    assert kernels is not None
    assert kernels.name.startswith(f"kernels-{level.name}-")
    assert caplog.messages == []
    assert not (tmp_path / "native").exists()


def test_all_levels_are_compiled_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    write_compiler(compiler, 'touch "$output"')
    monkeypatch.setenv("CXX", str(compiler))
    assert compiling.main([str(tmp_path / "prebuilt")]) == 0
    built = sorted(tuple(path.name.split("-")[:2]) for path in (tmp_path / "prebuilt").iterdir())
    assert built == sorted((sources.name, level.name) for sources in (ENGINE, TRAINER) for level in list_levels())


def test_libraries_of_other_sources_compilers_and_levels_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers = [tmp_path / "one", tmp_path / "another"]
    for compiler in compilers:
        write_compiler(compiler, 'touch "$output"')
    monkeypatch.setenv("CXX", str(compilers[0]))
    built = [find_or_compile(ENGINE, tmp_path / "native", level) for level in list_own_levels()]
    assert find_or_compile(ENGINE, tmp_path / "native", list_own_levels()[0]) == built[0]
    monkeypatch.setenv("CXX", str(compilers[1]))
    built.append(find_or_compile(ENGINE, tmp_path / "native", list_own_levels()[0]))
    sources = Path(shutil.copytree(ENGINE.folder, tmp_path / "sources"))
    (sources / "product.cpp").write_text((sources / "product.cpp").read_text() + "// changed\n")
    built.append(find_or_compile(Sources("kernels", sources), tmp_path / "native", list_own_levels()[0]))
    assert len(set(built)) == len(list_own_levels()) + 2


def test_compiling_beforehand_says_why_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    assert compiling.main([str(tmp_path)]) == 1
    assert "/bin/false failed" in capsys.readouterr().err


def test_what_cannot_be_compiled_ahead_is_said_by_who_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    compiling.compile_ahead(ENGINE, tmp_path).join()
    assert caplog.messages == []
    assert load(tmp_path) is None
    assert "/bin/false failed" in caplog.messages[0]
