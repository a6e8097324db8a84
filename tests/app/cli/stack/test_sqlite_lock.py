"""Who holds a SQLite database's lock, told by the kernel; the holders are real processes."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.stack.sqlite_lock import find_lock_holder

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    cursor = connection.execute(statement)
    cursor.fetchone()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["DELETE", "WAL"])
def journal_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path, journal_mode: str) -> Path:
    file = tmp_path / "loramill.db"
    # its processes are others, as the one that asks may have no connection
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode=' + sys.argv[2]);"
        "c.execute('CREATE TABLE t (x)'); "
        "c.executemany('INSERT INTO t VALUES (?)', [(n,) for n in range(9)]); c.commit()"
    )
    subprocess.run([sys.executable, "-c", script, str(file), journal_mode], check=True)
    return file


@contextlib.contextmanager
def holding(file: Path, statement: str) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file), statement], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_the_writer_is_named_while_it_writes(file: Path, statement: str) -> None:
    with holding(file, statement) as pid:
        assert find_lock_holder(file) == pid
    assert find_lock_holder(file) is None


def test_one_that_keeps_the_file_to_itself_is_named_though_it_writes_nothing(file: Path) -> None:
    statements = "PRAGMA locking_mode=EXCLUSIVE;BEGIN IMMEDIATE;DELETE FROM t;COMMIT"
    with holding(file, statements) as pid:
        assert find_lock_holder(file) == pid


def test_a_reader_counts_where_commits_wait_for_it(file: Path, journal_mode: str) -> None:
    with holding(file, "SELECT x FROM t") as pid:  # one row was read, the statement goes on
        assert find_lock_holder(file) == (pid if journal_mode == "DELETE" else None)


def test_the_one_that_holds_on_is_named_however_many_come_and_go(file: Path, journal_mode: str) -> None:
    if journal_mode == "WAL":
        pytest.skip("readers are in nobody's way")
    with holding(file, "SELECT x FROM t") as first, holding(file, "SELECT x FROM t"):
        assert find_lock_holder(file) == first


def test_connections_that_do_nothing_hold_nothing(file: Path) -> None:
    with holding(file, "SELECT count(*) FROM t"):
        assert find_lock_holder(file) is None


def test_no_database_has_no_holder(tmp_path: Path) -> None:
    assert find_lock_holder(tmp_path / "none.db") is None
    (tmp_path / "empty.db").touch()
    assert find_lock_holder(tmp_path / "empty.db") is None


def test_what_is_named_is_what_keeps_writers_out(file: Path) -> None:
    with holding(file, "BEGIN IMMEDIATE"):
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True)
        assert sqlite3.OperationalError.__name__ in done.stderr
        assert "locked" in done.stderr
