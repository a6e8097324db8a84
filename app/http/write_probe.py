"""Whether the database takes writes, tried with a real one; for health checks, which may come as often as they like."""

import threading
import time
from collections.abc import Callable
from typing import Final

from core.errors import DatabaseReadOnly, DatabaseUnavailable, ServiceError
from core.store.db import Database
from core.store.revisions import try_write

KEPT_S: Final = 3.0  # how long an answer is given again
WAIT_S: Final = 2.0  # less than who asks for readiness usually waits


class WriteProbe:
    """One process's tries, at most one at a time and one every `KEPT_S`. Safe in many threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._ended = threading.Event()
        self._ended_s = 0.0
        self._problem: str | None = None

    def find_problem(self) -> str | None:
        """Tell in a sentence why the database cannot be used; None: a write has just got through.

        Returns within `WAIT_S`, however long the database takes.
        """
        with self._lock:
            now_s = self._clock()
            is_due = self._began_s is None or (self._ended.is_set() and now_s - self._ended_s >= KEPT_S)
            if is_due:
                self._began_s = now_s
                self._ended.clear()
                # daemon: a file system that never answers must not keep the process from ending
                threading.Thread(target=self._try, name="write-probe", daemon=True).start()
            began_s = self._began_s
            assert began_s is not None
        if not self._ended.wait(max(0.0, began_s + WAIT_S - self._clock())):
            return f"the database has left a write unanswered for {self._clock() - began_s:.0f} s"
        return self._problem

    def _try(self) -> None:
        problem: str | None = "the database could not be tried; the server's log tells why"
        try:
            problem = self._find()
        finally:
            self._problem, self._ended_s = problem, self._clock()
            self._ended.set()

    def _find(self) -> str | None:
        try:
            self._database.check()
            try:
                try_write(self._database)
            except DatabaseReadOnly:
                raise
            except DatabaseUnavailable:
                return "the database can be read, but takes no writes: another process keeps it locked"
        except ServiceError as error:
            return str(error)
        return None
