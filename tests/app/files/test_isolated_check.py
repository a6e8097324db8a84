"""Checking Parquet in a process of its own: what it finds comes back whole, and its death is a problem of the file."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from app.files import isolated_check
from app.files.isolated_check import check_isolated
from core.text.files.file_check import FileReport
from core.text.files.parquet import PARQUET
from tests.harness.parquet_files import parquet_of, repeated


def check(content: bytes) -> FileReport:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return check_isolated(file, PARQUET, 2**20)


def test_the_report_comes_back_whole() -> None:
    assert check(parquet_of({"question": ["ä", "b"], "answer": ["c", None]})) == FileReport(
        2, "columns", ("question", "answer"), (), 0
    )


def test_problems_come_back_with_line_reason_and_code() -> None:
    report = check(parquet_of({"prompt": ["a"] * 30, "completion": ["b"] + [None] * 29}))
    assert (report.examples, report.problem_count, len(report.problems)) == (1, 29, 20)
    first = report.problems[0]
    assert (first.line, first.code) == (2, "malformed")
    assert first.reason == '"completion" must be a string, not null'


def test_a_bomb_is_refused_without_the_memory_it_asks_for() -> None:
    content = parquet_of({"a": repeated("x" * 20_000_000, 50_000)})  # 1 TB
    (problem,) = check(content).problems
    assert problem.code == "file_too_large"


@pytest.mark.parametrize(
    ("crash", "part"),
    [
        ("import os; os.abort()", "is damaged"),
        ("raise RuntimeError", "is damaged"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "took too long"),
        ("import time; time.sleep(60)", "took too long"),
    ],
)
def test_a_reader_that_dies_or_hangs_is_a_problem_of_the_file(
    crash: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(_: Any) -> list[str]:
        return [sys.executable, "-c", crash]

    monkeypatch.setattr(isolated_check, "bound", command)
    monkeypatch.setattr(isolated_check, "_WAIT_S", 2)
    report = check(b"PAR1")
    assert report.problem_count == 1
    assert part in report.problems[0].reason


def test_the_reader_may_not_take_more_memory_than_it_is_given(tmp_path: Path) -> None:
    code = (
        "import sys, app.files.isolated_check as it\n"
        "it.check_file = lambda *_: bytearray(it.MEMORY_BYTES)\n"
        "sys.argv = ['', 'parquet', '1']\n"
        "it.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
