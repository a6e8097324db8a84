"""Actors in threads of which one runs at a time, from one failpoint to the next, in an order that a seed decides.

Failpoints are where a store is told of a blob, has put its bytes, and deletes: between the steps of writers (row,
bytes, record) and of collectors (decision, bytes, row). No transaction is open there.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from core.store.blobs import Blob, LocalBlobStore
from core.store.db import Database
from core.store.references.recorded import RowFirst

KILLED_SHARE: Final = 0.03  # of failpoints at which the process dies


class ProcessKilled(BaseException):
    """The process of an actor was killed."""


class Baton:
    """Who may run. `pause` is for actors, the rest for who plays them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._mine = threading.local()
        self._back = threading.Semaphore(0)

    def pause(self) -> None:
        """Let others run; raises ProcessKilled where this actor's process ends here. Nothing outside of an actor."""
        turn: threading.Semaphore | None = getattr(self._mine, "turn", None)
        if turn is None:
            return
        self._back.release()
        turn.acquire()
        if self._random.random() < KILLED_SHARE:
            raise ProcessKilled

    def play(self, acts: list[Callable[[], None]], check: Callable[[], None]) -> None:
        """Run all acts to their ends, checking after each piece; raises what they and ``check`` raise."""
        turns, failures = [threading.Semaphore(0) for _ in acts], []
        running = set(range(len(acts)))

        def act(number: int) -> None:
            self._mine.turn = turns[number]
            turns[number].acquire()
            try:
                acts[number]()
            except ProcessKilled:
                pass
            except BaseException as failure:
                failures.append(failure)
            running.discard(number)
            self._back.release()

        # daemons: where a test is given up, they would wait for their turns for ever
        threads = [threading.Thread(target=act, args=(number,), daemon=True) for number in running]
        for thread in threads:
            thread.start()
        while running:
            turns[self._random.choice(sorted(running))].release()
            self._back.acquire()
            if not failures:
                try:
                    check()
                except AssertionError as failure:
                    failures.append(failure)  # the others end first: their threads must not stay
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


class PausingStore(LocalBlobStore):
    """A store at whose steps others come in between."""

    def __init__(self, folder: Path, database: Database, baton: Baton) -> None:
        self._baton = baton
        self._row_first = RowFirst(database, wait_s=0)  # nobody waits: who should, would wait for a paused one
        super().__init__(folder, announce=self._tell)

    def put_bytes(self, data: bytes) -> Blob:
        return self._after(super().put_bytes(data))

    def put_file(self, path: Path) -> Blob:
        return self._after(super().put_file(path))

    def delete(self, sha256: str) -> None:
        self._baton.pause()
        super().delete(sha256)
        self._baton.pause()

    def _tell(self, blob: Blob) -> None:
        self._baton.pause()
        self._row_first(blob)
        self._baton.pause()

    def _after(self, blob: Blob) -> Blob:
        self._baton.pause()
        return blob
