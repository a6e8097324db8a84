"""Watches one trainer from its start to its end: what it says, and why it must stop.

That the lease lives on meanwhile is ``worker.jobs.heartbeat``'s.

What its end means for the job is ``worker.jobs.runner``.
"""

import time
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Final

import structlog

from core.errors import AdapterInvalid, BlobFreed, DatabaseUnavailable, HostUnfit, StorageFull
from core.jobs.attempt import AttemptEnd, StoredCheckpoint
from core.jobs.events import EventLevel, JobEvent
from core.jobs.spec import checkpoint_name
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.queue.control import RequestedAction
from core.store.queue.leases import LeaseLost
from worker.jobs.blob_transfer import store_adapter
from worker.jobs.claim import Claim
from worker.jobs.heartbeat import LeaseHeartbeat
from worker.jobs.journal import Journal
from worker.trainer_process import run_folder
from worker.trainer_process.host_faults import host_faults
from worker.trainer_process.messages import CheckpointWritten, Message
from worker.trainer_process.process import Trainer
from worker.trainer_process.stop import StopFlag

_TICK_S: Final = 0.2  # longest wait between two looks at the deadlines
_WRITE_S: Final = 1.0  # shortest time between two writes of events

_log = structlog.stdlib.get_logger(__name__)


class StopReason(Enum):
    """Why a trainer was ended before it was done."""

    CANCELLED = auto()
    PAUSED = auto()
    WORKER_STOPS = auto()
    LEASE_IN_DOUBT = auto()
    SILENT = auto()


@dataclass
class Supervision:
    """One trainer being watched. ``model`` is the name that the job's adapter will have."""

    trainer: Trainer
    claim: Claim
    heartbeat: LeaseHeartbeat
    blobs: BlobStore
    settings: Settings
    stop: StopFlag
    model: str
    journal: Journal = field(default_factory=Journal)
    reason: StopReason | None = None
    has_spoken: bool = False  # whether the trainer said anything at all
    _unstored: list[CheckpointWritten] = field(default_factory=list)
    _stored: list[tuple[CheckpointWritten, StoredCheckpoint]] = field(default_factory=list)  # no row names them yet
    _heard_s: float = field(default_factory=time.monotonic)
    _written_s: float = field(default_factory=time.monotonic)
    _kill_s: float | None = None

    def run(self) -> None:
        """Return when the trainer has ended and all that it said is in the journal.

        Raises:
            LeaseLost: the job is another worker's; the trainer may still run.
        """
        while self.trainer.exit_code is None:
            self.heartbeat.sign()
            # Once there is a reason to end, a stop that was requested must not wake each wait.
            self._take(self.trainer.listen(_TICK_S, self.stop if self.reason is None else None))
            self._write_when_due()
            self._end_when_due()
        self._take(self.trainer.drain())
        if self.claim.lost:
            raise LeaseLost
        if self.reason is None and self.heartbeat.fenced:
            self.reason = StopReason.LEASE_IN_DOUBT

    def write_rest(self) -> None:
        """Write what is not in the database yet; raises what `Claim.report` raises, and can then be called again."""
        self._store_checkpoints()
        journal, checkpoints = self.journal, [stored for _, stored in self._stored]
        try:
            self.claim.report(journal.pending, checkpoints, journal.progress, journal.resumed_from_step)
        except BlobFreed:
            self._unstored, self._stored = [written for written, _ in self._stored], []
            raise
        journal.pending = []
        journal.resumed_from_step = None
        self._stored = []

    @property
    def end(self) -> AttemptEnd:
        """How the attempt ended, once it has."""
        code = self.trainer.exit_code
        return AttemptEnd(self.journal.last_step, exit_signal=-code if code is not None and code < 0 else None)

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self.has_spoken = True
            self.journal.take(message)
            if isinstance(message, CheckpointWritten):
                self._unstored.append(message)
        try:
            self._store_checkpoints()  # at once: the trainer keeps only its newest ones
        except (BlobFreed, DatabaseUnavailable) as problem:
            _log.warning("checkpoint not stored yet", reason=str(problem))
        if messages:  # only now: a store that took its time is no silence of the trainer
            self._heard_s = time.monotonic()

    def _store_checkpoints(self) -> None:
        while self._unstored:
            self._store_checkpoint(self._unstored[0])
            self._unstored.pop(0)

    def _store_checkpoint(self, written: CheckpointWritten) -> None:
        """Make the checkpoint servable; one that cannot be stored costs a model, not the job."""
        try:
            self.heartbeat.sign()
            with host_faults("store it"):
                adapter = store_adapter(self.blobs, Path(written.folder) / run_folder.ADAPTER)
        except (AdapterInvalid, HostUnfit) as problem:
            message = f"The checkpoint of step {written.step} cannot be served: {problem}"
            self.journal.pending.append(JobEvent(message, EventLevel.WARN, data={"step": written.step}))
            return
        name = checkpoint_name(self.model, written.step)
        self._stored.append((written, StoredCheckpoint(written.step, name, adapter, written.metrics)))

    def _write_when_due(self) -> None:
        waits_for_write = self.journal.pending or self._unstored or self._stored
        if waits_for_write and time.monotonic() - self._written_s >= min(_WRITE_S, self.settings.heartbeat_s):
            self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        try:
            self.write_rest()
        except (BlobFreed, DatabaseUnavailable, StorageFull) as problem:
            # The trainer goes on; what it said is kept and written as soon as that succeeds.
            _log.warning("events not written yet", reason=str(problem))

    def _end_when_due(self) -> None:
        now_s = time.monotonic()
        if self.claim.lost:
            raise LeaseLost
        if self._kill_s is not None:
            if now_s >= self._kill_s:
                _log.warning("trainer killed: it did not stop in time")
                self.trainer.kill()
        elif self.claim.requested_action is RequestedAction.CANCEL:
            self._ask_to_stop(StopReason.CANCELLED)
        elif self.claim.requested_action is RequestedAction.PAUSE:
            self._ask_to_stop(StopReason.PAUSED)
        elif self.stop.requested:
            self._ask_to_stop(StopReason.WORKER_STOPS)
        elif self.claim.may_be_lost:
            # No time for a last checkpoint: it would be written beside the next owner's training.
            self._kill(StopReason.LEASE_IN_DOUBT)
        elif now_s - self._heard_s >= self.settings.stall_s:
            self._kill(StopReason.SILENT)

    def _ask_to_stop(self, reason: StopReason) -> None:
        self.reason = reason
        self._kill_s = time.monotonic() + self.settings.stop_grace_s
        self.trainer.ask_to_stop()

    def _kill(self, reason: StopReason) -> None:
        self.reason = reason
        _log.warning("trainer killed", reason=reason.name.lower())
        self.trainer.kill()
