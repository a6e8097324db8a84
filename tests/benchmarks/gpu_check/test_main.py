"""The command: what it says without a GPU or a library, its exit statuses, and the whole of it in miniature."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check.__main__ import FAILED, HELD, NOT_TRIED, check
from benchmarks.gpu_check.listing import PARTS
from benchmarks.gpu_check.parts import Setting
from benchmarks.gpu_check.requirements import NEEDED, find_missing, pip_command
from benchmarks.host.processes import ROOT
from tests.benchmarks.gpu_check.test_parts import part

NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}


def run_command(*arguments: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command where some modules cannot be found."""
    lines = [
        "import runpy, sys",
        f"sys.modules.update(dict.fromkeys({blocked}))",  # None there makes an import fail
        f"sys.argv = ['gpu_check', *{arguments}]",
        "runpy.run_module('benchmarks.gpu_check', run_name='__main__', alter_sys=False)",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, env=os.environ | NO_GPU, capture_output=True, text=True
    )


def test_without_a_gpu_it_says_so_in_a_sentence_and_ends() -> None:
    ended = run_command()
    assert ended.returncode == NOT_TRIED
    assert ended.stderr == ("torch finds no CUDA GPU here; --miniature tries all that a CPU can, on tiny models\n")


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    ended = run_command("--miniature", blocked=("peft", "pydantic", "pydantic_settings"))
    assert ended.returncode == NOT_TRIED
    assert ended.stderr == (
        "missing here: peft, pydantic, pydantic_settings; install them: "
        "python -m pip install 'peft>=0.20' 'pydantic>=2.12' 'pydantic-settings>=2.12'\n"
    )


def test_full_size_on_a_cpu_is_refused() -> None:
    ended = run_command("--device", "cpu")
    assert ended.returncode == NOT_TRIED
    assert "only --miniature" in ended.stderr


def test_all_that_is_needed_is_here_and_a_library_of_no_extra_has_no_version() -> None:
    assert find_missing() == []
    assert pip_command(["vllm"]) == "python -m pip install vllm"
    assert pip_command(NEEDED).count(">=") == len(NEEDED)


@pytest.mark.parametrize(
    ("works", "status"), [(("hold", "skip"), HELD), (("hold", "not_hold", "skip"), FAILED), (("skip",), HELD)]
)
def test_the_exit_status_says_whether_a_part_failed(works: tuple[str, ...], status: int, tmp_path: Path) -> None:
    # as with a GPU: only this way of starting processes leaves none behind for other tests
    parts, setting = [part(work) for work in works], Setting("cuda", True, tmp_path)
    assert check(parts, setting, 600.0, tmp_path / "out.json") == status


def test_table_and_file_say_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    check([part(work) for work in ("hold", "not_hold", "skip")], Setting("cuda", True, tmp_path), 600.0, out)
    written = json.loads(out.read_text("utf-8"))
    assert written["counts"] == {"held": 1, "failed": 1, "skipped": 1}
    assert [one["verdict"] for one in written["parts"]] == ["held", "failed", "skipped"]
    assert written["parts"][1]["figures"] == {"error": 0.5}
    assert written["device"] == "cuda"
    assert "torch" in written["machine"]["versions"]
    said = capsys.readouterr().out
    assert "0.5 is too much (claimed: claims that it can not_hold)" in said
    assert "error: 0.5" in said
    assert "1 held, 1 failed, 1 skipped" in said


def test_each_part_has_a_name_of_its_own_and_the_correctness_of_both_sides_comes_before_rivals() -> None:
    names = [one.name for one in PARTS]
    assert len(set(names)) == len(names)
    first_rival = next(number for number, name in enumerate(names) if name.startswith("rivals"))
    assert all(not name.startswith("rivals") for name in names[:first_rival])
    assert {"serving: CUDA graphs", "training: resume", "training: 4 bits"} <= set(names[:first_rival])


@pytest.mark.slow  # it imports all that trains and serves in a process of its own
def test_what_is_not_needed_is_not_imported() -> None:
    blocked: tuple[str, ...] = (
        "fastapi",
        "sqlalchemy",
        "celery",
        "trl",
        "datasets",
        "rich",
        "uvicorn",
        "structlog",
        "pytest",
    )
    blocked += ("prometheus_client", "psycopg", "stamina", "uuid_utils", "rensa", "gguf", "pyarrow", "llguidance")
    modules = sorted({one.module for one in PARTS if "structlog" not in one.needs})
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({blocked}))",  # None there makes an import fail
        f"import benchmarks.gpu_check.__main__, {', '.join(modules)}",
    ]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], cwd=ROOT, check=True)


@pytest.mark.slow  # a minute of a core: everything that a CPU can run of it, once
def test_in_miniature_every_part_holds_or_says_what_it_needs(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--miniature", "--minutes", "30", "--out", str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == HELD, ended.stdout + ended.stderr
    parts = {one["name"]: one for one in json.loads(out.read_text("utf-8"))["parts"]}
    assert list(parts) == [one.name for one in PARTS]
    skipped = {name: one["why"] for name, one in parts.items() if one["verdict"] == "skipped"}
    assert skipped.pop("rivals: TRL", None) in (None, "needs trl, datasets, not installed here")
    assert skipped == dict.fromkeys(("serving: CUDA graphs", "training: 4 bits", "rivals: vLLM"), "needs CUDA")
    assert parts["training: packed attention"]["figures"]["kind"] == "CpuAttention"
    assert parts["training: one rank"]["figures"]["backend"] == "gloo"
    assert parts["training: full size"]["figures"]["ours"]["mfu"] > 0
    assert set(parts["serving: full size"]["figures"]["tax"]) >= {"r8", "r16", "prefill_r16"}
