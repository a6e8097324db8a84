"""Lines of the stack's processes on the terminal and in files."""

import io
from pathlib import Path

import pytest

from app.cli.stack import process_log
from app.cli.stack.process_log import ProcessLog, Terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_each_line_carries_its_process_name(tmp_path: Path) -> None:
    screen = io.StringIO()
    log = ProcessLog("api", tmp_path, Terminal(screen, ["api", "worker"]))
    log.follow(io.BytesIO(b"one\ntwo\r\nlast without end")).join()
    log.close()
    assert screen.getvalue() == "api    | one\napi    | two\napi    | last without end\n"
    assert (tmp_path / "api.log").read_text() == "one\ntwo\nlast without end\n"


def test_what_a_process_writes_begins_no_line_and_moves_no_terminal(tmp_path: Path) -> None:
    screen = io.StringIO()
    log = ProcessLog("api", tmp_path, Terminal(screen, ["api"]))
    log.follow(io.BytesIO("saw \x1b[31mred\rapi | forged\u2028\n".encode())).join()
    log.close()
    written = r"saw \x1b[31mred\rapi | forged\u2028"
    assert screen.getvalue() == f"api | {written}\n"
    assert (tmp_path / "api.log").read_text() == f"{written}\n"


def test_names_are_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Tty()
    Terminal(screen, ["api"]).write("api", "x")
    assert screen.getvalue() == "\x1b[36mapi |\x1b[0m x\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Tty()
    Terminal(plain, ["api"]).write("api", "x")
    assert plain.getvalue() == "api | x\n"


def test_files_are_capped_and_three_old_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_log, "FILE_BYTES", 1000)
    log = ProcessLog("api", tmp_path, Terminal(io.StringIO(), []))
    for number in range(1000):
        log.write(f"line {number}")
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1", "api.log.2", "api.log.3"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_the_file_goes_on_when_the_terminals_reader_left(tmp_path: Path) -> None:
    log = ProcessLog("api", tmp_path, Terminal(Gone(), []))
    log.write("one")
    log.write("two")
    log.close()
    assert (tmp_path / "api.log").read_text() == "one\ntwo\n"
