"""What an attempt at a job hands to the store: its checkpoints, how it ended, and what the job ends with.

Values only: a worker makes them, and ``core.store.queue.leases`` writes them for whoever holds the job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter whose files are in the blob store, its manifest last."""

    sha256: str  # of the manifest: the adapter's identity
    bytes: int  # of the manifest and its files
    parts: tuple[str, ...]  # the digests of its files


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint whose adapter is stored and whose row is yet to be written."""

    step: int
    name: str  # the model name it is served under
    adapter: StoredAdapter
    metrics: Mapping[str, float | None]  # None: a mean over nothing


@dataclass(frozen=True)
class Publication:
    """What a job that succeeded leaves: its adapter, and what is told of it."""

    adapter: StoredAdapter
    name: str  # the model name it is served under
    trained_on: str  # what the adapter learnt from, in a sentence
    trained_tokens: int
    result: Mapping[str, Any]  # as JSON


@dataclass(frozen=True)
class JobError:
    """Why a job failed. ``param`` is the request's field at fault; None where none is."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class AttemptEnd:
    """How far an attempt came. Both are None for one whose trainer did not start."""

    last_step: int | None = None
    exit_signal: int | None = None  # that ended the trainer; None: it exited by itself
