"""Which of the stack's processes must be ended because they no longer do anything: stopped, or hung as a whole.

A process that sent signs of life (``core.process.signs_of_life``) and falls silent for `SILENT_S` is of no use
any more. One that holds SQLite's lock meanwhile keeps all others from writing, and their jobs from being taken
over, so it has only `SILENT_WITH_LOCK_S`. One that a debugger looks at is left alone as long as it holds no lock.
A process that lives is never ended, however long it holds the lock: on a slow disk that is no fault of its own.
Ending them is ``app.cli.stack.supervisor``'s.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from app.cli.stack.sqlite_lock import find_lock_holder
from core.process.signs_of_life import SIGN

SILENT_S: Final = 60.0  # as long as an engine's step may take by default
# Twice as long as a writer waits for SQLite's lock, so what merely takes long is over by then.
SILENT_WITH_LOCK_S: Final = 10.0
LOOK_S: Final = 1.0
# Between two looks; longer means that this process was stopped itself, as by Ctrl-Z, and so heard nobody.
LONGEST_GAP_S: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")  # ucred: process, user, group


@dataclass(frozen=True)
class FrozenProcess:
    """A process that gives no sign of life, and what is known of it. ``lineage``: its id and those of its ancestors."""

    pid: int
    lineage: tuple[int, ...]
    sentence: str
    must_end: bool


class LivenessWatch:
    """Hears all processes of the stack on a socket of its own. Linux only; for one thread.

    Args:
        database: the SQLite file; None for a database that watches its own clients.
    """

    def __init__(self, address: Path, database: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._database = database
        self._clock = clock
        self._heard: dict[int, _Sender] = {}
        self._holder: _Holder | None = None
        self._looked_s = clock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(address))

    @staticmethod
    def environ(address: Path) -> dict[str, str]:
        """Give what a process's environment must have for it to be heard at this address."""
        return {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": str(int(SILENT_WITH_LOCK_S * 1e6))}

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def look(self) -> list[FrozenProcess]:
        """Take the signs of life that came, and give who is frozen; call it more often than every `LONGEST_GAP_S`."""
        self._hear()
        now_s = self._clock()
        gap_s = now_s - self._looked_s
        if gap_s < LOOK_S:
            return []
        self._looked_s = now_s
        if gap_s > LONGEST_GAP_S:
            self._holder = None
            for sender in self._heard.values():
                sender.heard_s = now_s
        holders = [] if (holder := self._find_frozen_holder(now_s)) is None else [holder]
        return holders + self._find_silent(now_s)

    def _hear(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and data == SIGN:
                    self._note(_CREDENTIALS.unpack(payload)[0])

    def _note(self, pid: int) -> None:
        sender = self._heard.get(pid)
        if sender is not None and sender.process.is_running():
            sender.heard_s, sender.told = self._clock(), False
            return
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            self._heard[pid] = _Sender(psutil.Process(pid), self._clock())

    def _find_frozen_holder(self, now_s: float) -> FrozenProcess | None:
        """Give the process that has held SQLite's lock, and been silent, for too long."""
        pid = None if self._database is None else find_lock_holder(self._database)
        if pid is None:
            self._holder = None
            return None
        holder = self._holder
        if holder is None or holder.pid != pid:
            holder = self._holder = _Holder(pid, now_s)
        heard_s = max(holder.since_s, self._heard[pid].heard_s) if pid in self._heard else holder.since_s
        if now_s - heard_s < SILENT_WITH_LOCK_S or holder.told:
            return None
        holder.told = True
        try:
            process = psutil.Process(pid)
            lineage, name = _lineage(process), process.name()
        except psutil.NoSuchProcess:  # it has ended since, or it is one that cannot be seen from here
            lineage, name = (pid,), "not to be seen from here"
        seconds = now_s - heard_s
        sentence = f"process {pid} ({name}) has kept others from writing the database for {seconds:.0f} s"
        return FrozenProcess(pid, lineage, f"{sentence} and gave no sign of life", must_end=True)

    def _find_silent(self, now_s: float) -> list[FrozenProcess]:
        found = []
        for pid, sender in list(self._heard.items()):
            if now_s - sender.heard_s < SILENT_S:
                continue
            try:
                if not sender.process.is_running() or sender.process.status() == psutil.STATUS_ZOMBIE:
                    del self._heard[pid]
                    continue
                lineage, name = _lineage(sender.process), sender.process.name()
                tracer = _tracer(pid)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                del self._heard[pid]
                continue
            sentence = f"process {pid} ({name}) gave no sign of life for {now_s - sender.heard_s:.0f} s"
            if not tracer:
                found.append(FrozenProcess(pid, lineage, sentence, must_end=True))
            elif not sender.told:
                sender.told = True
                sentence += f"; process {tracer} traces it, so it is left alone while it keeps nobody from writing"
                found.append(FrozenProcess(pid, lineage, sentence, must_end=False))
        return found


@dataclass
class _Sender:
    process: psutil.Process  # knows a process that was given the same id later
    heard_s: float
    told: bool = False  # that it is silent but left alone


@dataclass
class _Holder:
    """Who holds SQLite's lock at each look since ``since_s``."""

    pid: int
    since_s: float
    told: bool = False


def _lineage(process: psutil.Process) -> tuple[int, ...]:
    return process.pid, *(parent.pid for parent in process.parents())


def _tracer(pid: int) -> int:
    """Give the process that traces this one, as a debugger does; 0 for none."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))
