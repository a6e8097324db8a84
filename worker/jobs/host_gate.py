"""Whether this host may claim jobs: after two different ones in a row that it could not run, only once it is sound.

The attempts in the database say so, so the processes of a worker, and one that was started anew, agree. Whose fault
an attempt's end was is ``worker.jobs.attempt``'s to say; what a host does with one such job is
``core.store.queue.unfit_hosts``'.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from core.base_models.registry import compute_fingerprint, folder_of
from core.errors import BaseModelInvalid, HostUnfit
from core.store.queue import unfit_hosts
from core.store.queue.unfit_hosts import EndedAttempt
from worker.jobs.filling import require_base_model
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.host_faults import host_faults

_FIRST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 600.0
_PROBE_BYTES: Final = 2**22

_log = structlog.stdlib.get_logger(__name__)


class HostGate:
    """One process's view of its host.

    Args:
        checks: this process checks the host when it is due, and claims once that passes. One that does not
            leaves an unfit host to the one that does, as a check reads all base models.
        clock: monotonic, for the waits.
    """

    def __init__(
        self, runtime: WorkerRuntime, *, checks: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runtime = runtime
        self._checks = checks
        self._clock = clock
        self._seen: EndedAttempt | None = None  # the newest attempt that the waits are counted from
        self._waits = 0  # for the next check, since then and before
        self._next_check_s = 0.0
        self._sound: tuple[str, ...] = ()  # base models, of the last check if that was since then

    @property
    def is_on_trial(self) -> bool:
        """Whether this host may claim only because it was found sound: jobs that it has given back come last then.

        Otherwise two of them that no soundness helps would take every turn.
        """
        return self._seen is not None

    def claimable(self) -> tuple[str, ...]:
        """Give the base models whose jobs this host may claim now.

        Raises:
            DatabaseUnavailable: it cannot be asked how the last attempts ended.
        """
        with self._runtime.database.read() as session:
            in_a_row = unfit_hosts.list_unfit_in_a_row(session, self._runtime.identity.host)
        if len({attempt.job_id for attempt in in_a_row}) < 2:
            self._seen = None
            return self._runtime.settings.base_models
        if not self._checks:
            return ()
        if in_a_row[0] != self._seen:
            self._seen, self._waits, self._sound = in_a_row[0], len(in_a_row) - 2, ()
            self._wait()
            _log.warning("this host could not run its last jobs; it claims none until it is sound", jobs=len(in_a_row))
        if self._clock() >= self._next_check_s:
            self._check()
        return self._sound

    def _check(self) -> None:
        sound = sound_base_models(self._runtime)
        if sound and sound != self._sound:
            _log.warning("this host claims jobs again", base_models=sound)
        self._sound = sound
        self._wait()

    def _wait(self) -> None:
        # one check that found fewer base models than there are to be is repeated as one that found none
        self._next_check_s = self._clock() + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._waits, 10))
        self._waits += 1


def sound_base_models(runtime: WorkerRuntime) -> tuple[str, ...]:
    """Check this host: give the base models that it could train now, none where it has no room. Logs what is wrong."""
    settings = runtime.settings
    try:
        with host_faults("write to the run folders"):
            settings.runs_folder.mkdir(parents=True, exist_ok=True)
            probe = settings.runs_folder / f".probe-{runtime.identity.owner}"
            try:
                probe.write_bytes(bytes(_PROBE_BYTES))
            finally:
                probe.unlink(missing_ok=True)
        with host_faults("write to the store"), runtime.blobs.write() as writer:
            writer.write(bytes(_PROBE_BYTES))  # and never commit it
    except HostUnfit as fault:
        _log.warning("this host is not sound", reason=str(fault))
        return ()
    return tuple(name for name in settings.base_models if _is_sound(runtime, name))


def _is_sound(runtime: WorkerRuntime, name: str) -> bool:
    folder = runtime.settings.base_models_folder
    try:
        _, imported = require_base_model(folder, name)
        with host_faults("read the base model"):
            if compute_fingerprint(folder_of(folder, name)) != imported.fingerprint:
                raise BaseModelInvalid(f"base model {name} is damaged; run `loramill base-models import {name}`")
    except HostUnfit as fault:
        _log.warning("a base model of this host is not sound", base_model=name, reason=str(fault))
        return False
    return True
