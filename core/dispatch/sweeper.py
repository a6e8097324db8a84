"""Takes jobs back from workers that died, and rings again for jobs that nobody came for.

Runs as a thread in every API process and every worker; any number may sweep at once, because each
write repeats the condition it was decided on. How long a lease went unchanged is measured by this
process's own monotonic clock: no wall clock, of this machine or another, can end a lease.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from core.errors import DatabaseUnavailable
from core.settings import Settings
from core.store import jobs, leases
from core.store.db import Database
from core.store.leases import Lease

RING_AGAIN_S: Final = 30
_MOST_BELLS_A_SWEEP: Final = 8

_log = structlog.stdlib.get_logger(__name__)


class Bell(Protocol):
    """What the sweeper rings; `core.dispatch.doorbell.Doorbell` is the one there is."""

    def ring(self, job_id: str) -> bool: ...


@dataclass(frozen=True)
class _Sighting:
    lease: tuple[int, int]  # token, hb_seq
    since_s: float  # on this process's monotonic clock


class Sweeper:
    """One process's observation of all leases. Not for use by two threads at once."""

    def __init__(
        self, database: Database, bell: Bell, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._bell = bell
        self._settings = settings
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}
        self._last_sweep_s: float | None = None
        self._longest_gap_s = settings.sweep_s + settings.lease_ttl_s / 2

    def run(self, stop: threading.Event) -> None:
        """Sweep every ``sweep_s`` until ``stop`` is set; a database that is away is waited for."""
        while not stop.is_set():
            try:
                self.sweep_once()
            except DatabaseUnavailable as error:
                _log.warning("sweep skipped", reason=str(error))
            stop.wait(self._settings.sweep_s)

    def sweep_once(self) -> None:
        """Reclaim each lease that was seen unchanged for ``lease_ttl_s``, then ring for waiting jobs.

        Raises:
            DatabaseUnavailable: the database cannot be reached; the next sweep starts observing anew.
        """
        try:
            for lease in self._observe():
                self._reclaim(lease)
        except DatabaseUnavailable:
            # Workers could not write their heartbeats either, so what was seen before proves nothing.
            self._sightings.clear()
            raise
        self._ring_for_waiting()

    def _observe(self) -> list[Lease]:
        """Look at all leases and give those that have been unchanged for too long."""
        with self._database.read() as session:
            running = leases.leases(session)
        now_s = self._clock()
        if self._last_sweep_s is not None and now_s - self._last_sweep_s > self._longest_gap_s:
            # This process was stopped or starved between two looks; workers may have been as well.
            self._sightings.clear()
        self._last_sweep_s = now_s
        before, self._sightings = self._sightings, {}
        expired = []
        for lease in running:
            seen = before.get(lease.job_id)
            if seen is None or seen.lease != (lease.token, lease.hb_seq):
                seen = _Sighting((lease.token, lease.hb_seq), now_s)
            self._sightings[lease.job_id] = seen
            if now_s - seen.since_s >= self._settings.lease_ttl_s:
                expired.append(lease)
        return expired

    def _reclaim(self, lease: Lease) -> None:
        with self._database.write() as session:
            status = leases.reclaim(session, lease, max_attempts=self._settings.max_attempts, now=_now())
        if status is not None:
            _log.warning("job taken from a lost worker", job_id=lease.job_id, token=lease.token, status=status.value)

    def _ring_for_waiting(self) -> None:
        with self._database.read() as session:
            due = jobs.due_bells(session, before=_now() - RING_AGAIN_S, limit=_MOST_BELLS_A_SWEEP)
        rung = []
        for job_id in due:
            if not self._bell.ring(job_id):
                break  # the broker is away; the workers poll meanwhile
            rung.append(job_id)
        if rung:
            with self._database.write() as session:
                jobs.mark_rung(session, rung, now=_now())


def _now() -> int:
    return int(time.time())
