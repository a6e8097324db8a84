"""Published adapters and servable checkpoints: which model name is which manifest digest.

A job's adapter comes into being in `leases.publish`, together with the job's success; one from elsewhere in `imports`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select, update

from core.errors import CheckpointInUse, InvalidParameter, ModelInUse, ModelNotFound
from core.ids import new_id
from core.jobs.attempt import StoredCheckpoint
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, JobSpec, TrainedAdapter
from core.jobs.status import TERMINAL
from core.store import imports
from core.store.aliases import records as aliases
from core.store.db import Session
from core.store.queue import leases
from core.store.queue.leases import Lease
from core.store.references.rows import add_parts
from core.store.tables import AdapterRecord, AdapterState, CheckpointRecord, JobRecord

# Of a checkpoint that is joined with the adapter that its job may have published; the view `blob_references` says
# the same. Of a job that failed or was cancelled, the checkpoints are what is left of the work.
_CHECKPOINT_IS_SERVED = or_(AdapterRecord.id.is_(None), AdapterRecord.state == AdapterState.LIVE)


@dataclass(frozen=True)
class ServedAdapter:
    """What serves a fine-tuned model's name: an adapter, by the digest of its manifest, on its base model."""

    base_model: str
    adapter_sha256: str


def find_served(session: Session, name: str) -> ServedAdapter | None:
    """Find what serves a model name.

    Checkpoints can be used until the adapter of their job is deleted; where it has none, until they are themselves.
    """
    adapter = session.execute(
        select(AdapterRecord.base_model, AdapterRecord.adapter_sha256).where(
            AdapterRecord.name == name, AdapterRecord.state == AdapterState.LIVE
        )
    ).one_or_none()
    row = (
        adapter
        or session.execute(
            select(JobRecord.base_model, CheckpointRecord.adapter_sha256)
            .join(JobRecord, JobRecord.id == CheckpointRecord.job_id)
            .outerjoin(AdapterRecord, AdapterRecord.job_id == CheckpointRecord.job_id)
            .where(
                CheckpointRecord.name == name,
                _CHECKPOINT_IS_SERVED,
            )
        ).one_or_none()
    )
    return None if row is None else ServedAdapter(*row)


def find_trained(session: Session, name: str) -> TrainedAdapter | None:
    """Find the adapter that serves a model name, and what it was trained as."""
    served = find_served(session, name)
    if served is None:
        return None
    origin = find_spec(session, name) or imports.get_spec(session, name)
    return TrainedAdapter(served.base_model, AdapterRef(name=name, adapter_sha256=served.adapter_sha256), origin.lora)


def find_spec(session: Session, name: str) -> JobSpec | None:
    """Find what a model, served or deleted, or a checkpoint was trained as; None: no job here trained one."""
    job_id = find_job_id(session, name)
    trained = JobRecord.id == job_id, JobRecord.kind == JobKind.FINE_TUNING
    spec = None if job_id is None else session.scalar(select(JobRecord.spec).where(*trained))
    return None if spec is None else JobSpec.model_validate(spec)


def find_job_id(session: Session, name: str) -> str | None:
    """Find the job that made a model, served or deleted, or a checkpoint; None: no job made one of this name."""
    # by the name's own index: one query over both tables would read every job
    return session.scalar(select(AdapterRecord.job_id).where(AdapterRecord.name == name)) or session.scalar(
        select(CheckpointRecord.job_id).where(CheckpointRecord.name == name)
    )


def keep_served(session: Session, ref: AdapterRef, param: str) -> None:
    """Keep what serves a name as it is until the transaction ends, for a record that refers to the adapter too.

    Args:
        param: the request's field that has the name.

    Raises:
        InvalidParameter: the name was deleted, or serves another adapter by now.
    """
    job_ids = session.scalars(
        select(AdapterRecord.job_id)
        .where(AdapterRecord.name == ref.name)
        .union(select(CheckpointRecord.job_id).where(CheckpointRecord.name == ref.name))
    ).all()
    # FOR SHARE: a deletion under way, or a job's end, is waited for, and seen
    session.execute(select(JobRecord.id).where(JobRecord.id.in_(job_ids)).with_for_update(read=True))
    session.execute(select(AdapterRecord.id).where(AdapterRecord.job_id.in_(job_ids)).with_for_update(read=True))
    served = find_served(session, ref.name)
    if served is None or served.adapter_sha256 != ref.adapter_sha256:
        raise InvalidParameter(param, f"{ref.name} was deleted meanwhile")


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[Sequence[AdapterRecord], bool]:
    """List the adapters that are served, newest first, and tell whether there are older ones.

    Args:
        after: name of the last one already seen (it may be deleted since); None starts with the newest.

    Raises:
        InvalidParameter: no adapter was ever called ``after``.
    """
    query = select(AdapterRecord).where(AdapterRecord.state == AdapterState.LIVE)
    if after is not None:
        seen = session.scalar(select(AdapterRecord.id).where(AdapterRecord.name == after))
        if seen is None:
            raise InvalidParameter("after", f"no fine-tuned model is called {after}")
        query = query.where(AdapterRecord.id < seen)
    rows = session.scalars(query.order_by(AdapterRecord.id.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def list_versions(session: Session, names: Collection[str]) -> dict[str, tuple[str, int]]:
    """List suffix and version of those of the models, deleted ones too, that have them."""
    rows = session.execute(
        select(AdapterRecord.name, AdapterRecord.suffix, AdapterRecord.version).where(AdapterRecord.name.in_(names))
    )
    return {name: (suffix, version) for name, suffix, version in rows if suffix is not None and version is not None}


def get(session: Session, name: str) -> AdapterRecord:
    """Give the live adapter of a model name.

    Raises:
        ModelNotFound: there is none, or it was deleted.
    """
    adapter = session.scalar(
        select(AdapterRecord).where(AdapterRecord.name == name, AdapterRecord.state == AdapterState.LIVE)
    )
    if adapter is None:
        raise ModelNotFound(name)
    return adapter


def find_checkpoint(session: Session, name: str) -> CheckpointRecord | None:
    """Find the checkpoint of a model name that serves it; None: none does."""
    if find_served(session, name) is None:
        return None
    return session.scalar(select(CheckpointRecord).where(CheckpointRecord.name == name))


@dataclass(frozen=True)
class DeletedAdapters:
    """A model that is served no more. ``digests``: of adapters and checkpoints that no model name leads to any more."""

    base_model: str
    digests: Sequence[str]


def delete(session: Session, name: str) -> DeletedAdapters:
    """Stop serving an adapter and its checkpoints, or one checkpoint of a job that ended without an adapter.

    An adapter's row stays, so its name is never used again; a job that has ended makes no other checkpoint.

    Raises:
        ModelNotFound: there is no such live adapter, and no such checkpoint.
        CheckpointInUse: it is a checkpoint, and its job goes on or has an adapter.
        ModelInUse: an alias stands for it, or for one of its checkpoints.
    """
    adapter = session.scalar(
        update(AdapterRecord)
        .where(AdapterRecord.name == name, AdapterRecord.state == AdapterState.LIVE)
        .values(state=AdapterState.DELETED)
        .returning(AdapterRecord)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if adapter is None:
        return _delete_checkpoint(session, name)
    checkpoints = session.execute(
        select(CheckpointRecord.name, CheckpointRecord.adapter_sha256).where(CheckpointRecord.job_id == adapter.job_id)
    ).all()
    _require_unnamed(session, {name, *(checkpoint.name for checkpoint in checkpoints)})
    digests = {adapter.adapter_sha256, *(checkpoint.adapter_sha256 for checkpoint in checkpoints)}
    return DeletedAdapters(adapter.base_model, _unserved(session, digests))


def _delete_checkpoint(session: Session, name: str) -> DeletedAdapters:
    checkpoint = session.scalar(select(CheckpointRecord).where(CheckpointRecord.name == name))
    if checkpoint is None:
        raise ModelNotFound(name)
    # FOR UPDATE: a job that is made to go on from this checkpoint looks at the same row
    job = session.scalars(select(JobRecord).where(JobRecord.id == checkpoint.job_id).with_for_update()).one()
    adapter = session.scalar(select(AdapterRecord).where(AdapterRecord.job_id == job.id))
    if adapter is not None and adapter.state is AdapterState.DELETED:
        raise ModelNotFound(name)
    if adapter is not None or job.status not in TERMINAL:
        raise CheckpointInUse(name, job.id if adapter is None else adapter.name)
    _require_unnamed(session, {name})
    session.delete(checkpoint)
    session.flush()
    return DeletedAdapters(job.base_model, _unserved(session, {checkpoint.adapter_sha256}))


def _require_unnamed(session: Session, models: set[str]) -> None:
    """Refuse to delete what an alias stands for. One that is set at this moment waits for the rows that are locked."""
    found = aliases.find_standing_for(session, models)
    if found is not None:
        alias, model = found
        raise ModelInUse(model, alias)


def _unserved(session: Session, digests: set[str]) -> Sequence[str]:
    """List those of the digests that no model name leads to."""
    adapters = select(AdapterRecord.adapter_sha256).where(
        AdapterRecord.adapter_sha256.in_(digests), AdapterRecord.state == AdapterState.LIVE
    )
    checkpoints = (
        select(CheckpointRecord.adapter_sha256)
        .outerjoin(AdapterRecord, AdapterRecord.job_id == CheckpointRecord.job_id)
        .where(CheckpointRecord.adapter_sha256.in_(digests), _CHECKPOINT_IS_SERVED)
    )
    return sorted(digests - set(session.scalars(adapters)) - set(session.scalars(checkpoints)))


def add_checkpoint(session: Session, lease: Lease, checkpoint: StoredCheckpoint, now: int) -> CheckpointRecord:
    """Record a checkpoint; one that an earlier attempt wrote at this step is replaced.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    leases.hold(session, lease)
    record = session.scalar(
        select(CheckpointRecord).where(
            CheckpointRecord.job_id == lease.job_id, CheckpointRecord.step == checkpoint.step
        )
    )
    if record is None:
        record = CheckpointRecord(id=new_id("ftckpt-"), job_id=lease.job_id, step=checkpoint.step)
        session.add(record)
    record.name = checkpoint.name
    record.adapter_sha256 = checkpoint.adapter.sha256
    record.metrics = dict(checkpoint.metrics)
    record.created_at = now
    session.flush()
    add_parts(session, checkpoint.adapter.sha256, checkpoint.adapter.parts)
    return record


def list_checkpoints(
    session: Session, job_id: str, after: str | None, limit: int
) -> tuple[Sequence[CheckpointRecord], bool]:
    """List a job's checkpoints, last step first, and tell whether there are earlier ones.

    Args:
        after: id of the last checkpoint already seen; None starts with the newest.

    Raises:
        InvalidParameter: ``after`` is no checkpoint of this job.
    """
    query = select(CheckpointRecord).where(CheckpointRecord.job_id == job_id)
    if after is not None:
        seen_step = session.scalar(
            select(CheckpointRecord.step).where(CheckpointRecord.job_id == job_id, CheckpointRecord.id == after)
        )
        if seen_step is None:
            raise InvalidParameter("after", f"{after} is no checkpoint of {job_id}")
        query = query.where(CheckpointRecord.step < seen_step)
    rows = session.scalars(query.order_by(CheckpointRecord.step.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
