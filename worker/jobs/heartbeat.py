"""Heartbeats for one attempt from its claim to its end, in a thread of its own, whatever else its work waits for.

A lease must not outlive the work it stands for: the work gives a sign now and then, and without one for too long
no more heartbeats are written. What a heartbeat is, is ``core.store.queue.leases``' matter.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import structlog

from core.errors import DatabaseUnavailable, StorageFull
from core.store.queue.leases import LeaseLost
from worker.jobs.claim import Claim

_log = structlog.stdlib.get_logger(__name__)


class LeaseHeartbeat:
    """Beats while its context lasts.

    Args:
        every_s: seconds between two heartbeats.
        patience_s: seconds without a sign of the work after which it counts as hung.
        clock: monotonic, for the patience alone.
    """

    def __init__(
        self, claim: Claim, *, every_s: float, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._claim = claim
        self._every_s = every_s
        self._patience_s = patience_s
        self._clock = clock
        self._signed_s = clock()
        self._over = threading.Event()
        self._kill: Callable[[], None] | None = None
        self._fencing = threading.Lock()
        self._thread: threading.Thread | None = None
        self.fenced = False  # whether the trainer was killed because the lease is lost, or could soon be

    def sign(self) -> None:
        """Say that the work goes on."""
        self._signed_s = self._clock()

    @contextmanager
    def guarding(self, kill: Callable[[], None]) -> Iterator[None]:
        """Have the trainer killed, by this thread, if the lease is lost while the context lasts."""
        with self._fencing:
            self._kill = kill
        try:
            yield
        finally:
            with self._fencing:
                self._kill = None

    def __enter__(self) -> "LeaseHeartbeat":
        # the log lines of this thread are about the same job
        bound = structlog.contextvars.get_contextvars()
        self._thread = threading.Thread(target=self._run, args=(bound,), name="heartbeat")
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self, bound: dict[str, object]) -> None:
        structlog.contextvars.bind_contextvars(**bound)
        while not self._over.wait(self._every_s):
            if self._clock() - self._signed_s >= self._patience_s:
                _log.error("no more heartbeats: the worker's own work hangs", silent_s=self._patience_s)
                self._fence()
                return
            try:
                self._claim.beat()
            except LeaseLost:
                self._fence()
                return
            except (DatabaseUnavailable, StorageFull) as problem:
                _log.warning("heartbeat failed", reason=str(problem))
            except Exception:
                # A mistake of ours: a trainer whose lease nobody keeps must not go on.
                _log.exception("no more heartbeats: mistake in the worker")
                self._fence()
                return
            if self._claim.may_be_lost:
                # The trainer's watcher would see it too, but it may be waiting for a slow disk.
                self._fence()

    def _fence(self) -> None:
        with self._fencing:
            if self._kill is not None and not self.fenced:
                self.fenced = True
                _log.warning("trainer killed: the lease is lost or in doubt")
                self._kill()
