"""Takes jobs back from workers that died, has experiments go on, notifies again of jobs that nobody came for, deletes
what is older than it is kept, frees what nobody refers to.

Runs as a thread in every API process and every worker; any number may sweep at once, because each
write repeats the condition it was decided on. How long a lease went unchanged is measured by this
process's own monotonic clock: no wall clock, of this machine or another, can end a lease.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from core.dispatch.doorbell import Notifier
from core.errors import CollectionRuns, DatabaseDamaged, DatabaseUnavailable, PartsUnknown, StorageFull
from core.settings import Settings
from core.store import jobs
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.experiments.advancing import advance
from core.store.experiments.records import list_running
from core.store.queue import leases
from core.store.queue.leases import ObservedLease
from core.store.references.collector import COLLECT_EVERY_S, Collector
from core.store.retention.expiry import EXPIRE_EVERY_S, Expiry, Retention

NOTIFY_AGAIN_S: Final = 30
# A write to the blob store that has not grown for so long is nobody's any more; an upload may be slow.
ABANDONED_WRITE_S: Final = 24 * 60 * 60
_MAX_NOTIFICATIONS_PER_SWEEP: Final = 8

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class _Sighting:
    observed: ObservedLease
    since_s: float  # on this process's monotonic clock


class Sweeper:
    """One process's observation of all leases. Not for use by two threads at once."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        notifier: Notifier,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._notifier = notifier
        self._settings = settings
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}
        self._last_sweep_s: float | None = None
        self._collector = Collector(database, blobs, settings.gc_grace_h * 3600)
        self._collected_s: float | None = None  # None: not since this process started
        self._expiry = Expiry(database, Retention.of(settings))
        self._expired_s: float | None = None  # as `_collected_s`
        self._longest_gap_s = settings.sweep_s + settings.lease_ttl_s / 2

    def run(self, stop: threading.Event) -> None:
        """Sweep every ``sweep_s`` until ``stop`` is set; a database that is away is waited for."""
        while not stop.is_set():
            try:
                self.sweep_once()
            except (DatabaseUnavailable, DatabaseDamaged, StorageFull) as error:
                _log.warning("sweep skipped", reason=str(error))
            stop.wait(self._settings.sweep_s)

    def sweep_once(self) -> None:
        """Reclaim each lease that was seen unchanged for ``lease_ttl_s``, then notify workers of waiting jobs.

        Between the two, take the next step of each experiment, which may queue some. Last, each minute, delete some of
        what is too old; free the disk from writes that were abandoned, and hourly from bytes that nothing refers to.

        Raises:
            DatabaseUnavailable: the database cannot be reached; the next sweep starts observing anew.
            StorageFull: the database's disk is full.
        """
        try:
            for observed in self._observe():
                self._reclaim(observed)
        except (DatabaseUnavailable, StorageFull):
            # Workers could not write their heartbeats either, so what was seen before proves nothing.
            self._sightings.clear()
            raise
        self._advance_experiments()
        self._notify_of_waiting()
        self._expire()
        self._free_abandoned_writes()
        self._free_unreferenced()
        self._database.keep_reserve()

    def _observe(self) -> list[ObservedLease]:
        """Look at all leases and give those that have been unchanged for too long."""
        with self._database.read() as session:
            running = leases.list_running(session)
        now_s = self._clock()
        if self._last_sweep_s is not None and now_s - self._last_sweep_s > self._longest_gap_s:
            # This process was stopped or starved between two looks; workers may have been as well.
            self._sightings.clear()
        self._last_sweep_s = now_s
        before, self._sightings = self._sightings, {}
        expired = []
        for observed in running:
            sighting = before.get(observed.lease.job_id)
            if sighting is None or sighting.observed != observed:
                sighting = _Sighting(observed, now_s)
            self._sightings[observed.lease.job_id] = sighting
            if now_s - sighting.since_s >= self._settings.lease_ttl_s:
                expired.append(observed)
        return expired

    def _reclaim(self, observed: ObservedLease) -> None:
        with self._database.write() as session:
            status = leases.reclaim(session, observed, max_attempts=self._settings.max_attempts, now=_now())
        if status is not None:
            lease = observed.lease
            _log.warning("job taken from a lost worker", job_id=lease.job_id, token=lease.token, status=status.value)

    def _advance_experiments(self) -> None:
        with self._database.read() as session:
            running = list_running(session)
        for experiment_id in running:
            advance(self._database, experiment_id, now=_now())

    def _notify_of_waiting(self) -> None:
        with self._database.read() as session:
            due = jobs.list_to_notify(session, before=_now() - NOTIFY_AGAIN_S, limit=_MAX_NOTIFICATIONS_PER_SWEEP)
        notified = []
        for job_id in due:
            if not self._notifier.notify(job_id):
                break  # the broker is away; the workers poll meanwhile
            notified.append(job_id)
        if notified:
            with self._database.write() as session:
                jobs.mark_notified(session, notified, now=_now())

    def _expire(self) -> None:
        if self._expired_s is not None and self._clock() - self._expired_s < EXPIRE_EVERY_S:
            return
        self._expired_s = self._clock()
        gone = self._expiry.expire()
        if gone:
            _log.info("what was kept for long enough deleted", rows=gone)

    def _free_abandoned_writes(self) -> None:
        try:
            freed = self._blobs.sweep_incoming(older_than_s=ABANDONED_WRITE_S)
        except OSError as error:  # the store's file system is away; leases are swept all the same
            _log.warning("abandoned writes not freed", reason=str(error))
            return
        if freed:
            _log.info("abandoned writes freed", writes=freed)

    def _free_unreferenced(self) -> None:
        """Finish what a dead collector began; and, once an hour, collect, unless another process is at it."""
        try:
            self._collector.finish_for_dead()
            if self._collected_s is not None and self._clock() - self._collected_s < COLLECT_EVERY_S:
                return
            self._collected_s = self._clock()
            freed = self._collector.collect()
        except CollectionRuns:
            return
        except (PartsUnknown, OSError) as error:
            _log.warning("unreferenced bytes not freed", reason=str(error))
            return
        if freed:
            _log.info("unreferenced bytes freed", blobs=len(freed), bytes=sum(blob.bytes for blob in freed))


def _now() -> int:
    return int(time.time())
