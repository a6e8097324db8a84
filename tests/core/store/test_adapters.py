import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select

from core.errors import CheckpointInUse, InvalidParameter, ModelInUse, ModelNotFound, ServiceError
from core.jobs.attempt import AttemptEnd, JobError, Publication, StoredAdapter, StoredCheckpoint
from core.jobs.spec import AdapterRef, JobSpec
from core.store import adapters, jobs
from core.store.adapters import DeletedAdapters, ServedAdapter
from core.store.aliases import records as aliases
from core.store.aliases.records import AliasState, Why
from core.store.db import Database, Session
from core.store.queue import claims, leases
from core.store.queue.leases import Lease
from core.store.tables import BLOB_REFERENCES, CheckpointRecord, JobRecord
from tests.core.store.conftest import MakeJob
from tests.core.store.leased import publish

NAME = "ft:tiny:local::1"
ADAPTER, CHECKPOINT = "a" * 64, "c" * 64


@pytest.fixture
def running(database: Database, make_job: MakeJob) -> JobRecord:
    make_job()
    with database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
    assert job is not None
    return job


def _add_checkpoint(database: Database, job: JobRecord, step: int, sha256: str = CHECKPOINT) -> CheckpointRecord:
    with database.write() as session:
        return adapters.add_checkpoint(
            session,
            Lease(job.id, job.token),
            StoredCheckpoint(step, f"{NAME}:ckpt-step-{step}", StoredAdapter(sha256, 10, ()), {"train_loss": 1.5}),
            210,
        )


def _publish(database: Database, job: JobRecord) -> None:
    with database.write() as session:
        leases.publish(
            session,
            Lease(job.id, job.token),
            Publication(StoredAdapter(ADAPTER, 10, ()), NAME, "the completions", trained_tokens=5, result={}),
            AttemptEnd(),
            300,
        )


def _find(database: Database, name: str) -> ServedAdapter | None:
    with database.read() as session:
        return adapters.find_served(session, name)


def test_a_served_model_tells_what_to_go_on_from(database: Database, running: JobRecord) -> None:
    _add_checkpoint(database, running, 5)
    with database.read() as session:
        assert adapters.find_trained(session, NAME) is None
        trained = adapters.find_trained(session, f"{NAME}:ckpt-step-5")
    assert trained is not None
    assert trained.ref == AdapterRef(name=f"{NAME}:ckpt-step-5", adapter_sha256=CHECKPOINT)
    _publish(database, running)
    with database.read() as session:
        trained = adapters.find_trained(session, NAME)
    assert trained is not None
    assert (trained.base_model, trained.ref.adapter_sha256) == ("tiny", ADAPTER)
    assert trained.lora == JobSpec.model_validate(running.spec).lora


def test_a_name_is_served_from_publication_to_deletion(database: Database, running: JobRecord) -> None:
    assert _find(database, NAME) is None
    _publish(database, running)
    assert _find(database, NAME) == ServedAdapter("tiny", ADAPTER)
    with database.write() as session:
        assert [row.name for row in adapters.list_page(session, after=None, limit=9)[0]] == [NAME]
        assert adapters.delete(session, NAME).digests == [ADAPTER]
        assert adapters.list_page(session, after=None, limit=9) == ([], False)
    assert _find(database, NAME) is None


def test_a_deleted_adapter_is_not_found_and_leaves_its_job_alone(database: Database, running: JobRecord) -> None:
    _publish(database, running)
    with database.write() as session:
        adapters.delete(session, NAME)
    with pytest.raises(ModelNotFound), database.read() as session:
        adapters.get(session, NAME)
    with pytest.raises(ModelNotFound), database.write() as session:
        adapters.delete(session, NAME)
    with database.read() as session:
        assert jobs.get(session, running.id).fine_tuned_model == NAME


def test_a_checkpoint_is_served_while_its_job_goes_on_and_its_adapter_lives(
    database: Database, running: JobRecord
) -> None:
    name = _add_checkpoint(database, running, step=4).name
    assert _find(database, name) == ServedAdapter("tiny", CHECKPOINT)
    _publish(database, running)
    assert _find(database, name) == ServedAdapter("tiny", CHECKPOINT)
    with database.write() as session:
        adapters.delete(session, NAME)
    assert _find(database, name) is None


def _end_without_adapter(session: Session, job: JobRecord, end: str) -> None:
    lease = Lease(job.id, job.token)
    if end == "failed":
        leases.fail(session, lease, JobError("loss_not_finite", "the loss is not finite"), AttemptEnd(), 220)
    else:
        leases.cancel(session, lease, AttemptEnd(), 220)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_checkpoint_of_a_job_that_ended_without_an_adapter_is_served_until_it_is_deleted(
    database: Database, running: JobRecord, end: str
) -> None:
    name = _add_checkpoint(database, running, step=4).name
    other = _add_checkpoint(database, running, step=8, sha256="d" * 64).name
    with database.write() as session:
        _end_without_adapter(session, running, end)
    assert _find(database, name) == ServedAdapter("tiny", CHECKPOINT)
    with database.write() as session:
        trained = adapters.find_trained(session, name)
        assert trained is not None  # so that another job can go on from it
        adapters.keep_served(session, trained.ref, "continue_from")
        assert CHECKPOINT in session.scalars(select(BLOB_REFERENCES.c.sha256)).all()
        assert adapters.delete(session, name) == DeletedAdapters("tiny", [CHECKPOINT])
        assert CHECKPOINT not in session.scalars(select(BLOB_REFERENCES.c.sha256)).all()
        with pytest.raises(ModelNotFound):
            adapters.delete(session, name)
    assert (_find(database, name), _find(database, other)) == (None, ServedAdapter("tiny", "d" * 64))


def test_a_checkpoint_goes_with_its_job_and_then_with_its_model(database: Database, running: JobRecord) -> None:
    name = _add_checkpoint(database, running, step=4).name
    with pytest.raises(CheckpointInUse, match=running.id), database.write() as session:
        adapters.delete(session, name)
    _publish(database, running)
    with pytest.raises(CheckpointInUse, match=NAME), database.write() as session:
        adapters.delete(session, name)
    with database.write() as session:
        adapters.delete(session, NAME)
    with pytest.raises(ModelNotFound), database.write() as session:
        adapters.delete(session, name)


def test_a_checkpoint_of_a_later_attempt_replaces_the_one_of_its_step(database: Database, running: JobRecord) -> None:
    first = _add_checkpoint(database, running, step=4)
    second = _add_checkpoint(database, running, step=4, sha256="d" * 64)
    assert second.id == first.id
    assert _find(database, first.name) == ServedAdapter("tiny", "d" * 64)


def test_checkpoints_are_listed_from_the_last_step(database: Database, running: JobRecord) -> None:
    for step in (2, 10, 4):
        _add_checkpoint(database, running, step)
    with database.read() as session:
        first, more = adapters.list_checkpoints(session, running.id, None, 2)
        second, more_still = adapters.list_checkpoints(session, running.id, first[-1].id, 2)
    assert [checkpoint.step for checkpoint in (*first, *second)] == [10, 4, 2]
    assert (more, more_still) == (True, False)


def test_something_else_is_no_place_to_go_on_from(database: Database, running: JobRecord) -> None:
    with pytest.raises(InvalidParameter, match="after"), database.read() as session:
        adapters.list_checkpoints(session, running.id, "ftckpt-none", 2)


def test_what_no_name_leads_to_is_unserved_with_the_jobs_checkpoints(database: Database, running: JobRecord) -> None:
    _add_checkpoint(database, running, 5)
    _publish(database, running)
    with database.write() as session:
        assert adapters.delete(session, NAME) == DeletedAdapters("tiny", [ADAPTER, CHECKPOINT])


def _stand_for(database: Database, model: str, canary: str | None = None) -> None:
    percent = None if canary is None else 10
    with database.write() as session:
        state = AliasState(model=model, canary=canary, percent=percent)
        aliases.move(session, "bot@prod", state, Why("someone", None), 400)


@pytest.mark.parametrize("named", [NAME, f"{NAME}:ckpt-step-5"])
@pytest.mark.parametrize("is_canary", [False, True])
def test_what_an_alias_stands_for_is_not_deleted(
    database: Database, running: JobRecord, named: str, is_canary: bool
) -> None:
    _add_checkpoint(database, running, 5)
    _publish(database, running)
    _stand_for(database, *(("ft:other", named) if is_canary else (named,)))
    with pytest.raises(ModelInUse, match=f"alias bot@prod stands for {named};"), database.write() as session:
        adapters.delete(session, NAME)
    assert _find(database, NAME) is not None
    _stand_for(database, "ft:other")
    with database.write() as session:
        adapters.delete(session, NAME)


def test_a_checkpoint_without_a_model_that_an_alias_stands_for_is_not_deleted(
    database: Database, running: JobRecord
) -> None:
    checkpoint = _add_checkpoint(database, running, 5)
    with database.write() as session:
        leases.fail(session, Lease(running.id, running.token), JobError("x", "y"), AttemptEnd(), 300)
    _stand_for(database, checkpoint.name)
    with pytest.raises(ModelInUse), database.write() as session:
        adapters.delete(session, checkpoint.name)
    assert _find(database, checkpoint.name) is not None


def test_a_model_is_deleted_or_an_alias_stands_for_it_and_never_both(database: Database, running: JobRecord) -> None:
    """As both happen at the same time, on PostgreSQL in transactions that overlap."""
    _publish(database, running)
    begin = threading.Barrier(2)
    outcomes: list[type[ServiceError] | None] = []

    def attempt(change: Callable[[Session], object]) -> None:
        begin.wait()
        try:
            with database.write() as session:
                change(session)
            outcomes.append(None)
        except ServiceError as error:
            outcomes.append(type(error))

    def point(session: Session) -> None:
        adapters.keep_served(session, AdapterRef(name=NAME, adapter_sha256=ADAPTER), "model")
        aliases.move(session, "bot@prod", AliasState(model=NAME), Why("someone", None), 400)

    threads = [
        threading.Thread(target=attempt, args=(change,)) for change in (lambda s: adapters.delete(s, NAME), point)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(None) == 1
    assert set(outcomes) - {None} < {ModelInUse, InvalidParameter}
    with database.read() as session:
        assert (adapters.find_served(session, NAME) is None) == (aliases.find(session, "bot@prod") is None)


def test_models_of_one_family_are_numbered_in_the_order_of_their_success(database: Database, make_job: MakeJob) -> None:
    names = ["ft:tiny:a:bot:1", "ft:tiny:a:bot:2", "ft:tiny:b:bot:3", "ft:tiny:a:other:4", "ft:tiny:a::5"]
    for name, suffix in zip(names, ["bot", "bot", "bot", "other", None], strict=True):
        make_job(suffix=suffix)
        with database.write() as session:
            job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
            assert job is not None
            publish(session, Lease(job.id, job.token), name)
    with database.write() as session:
        adapters.delete(session, names[1])  # whose number is given to no other
    make_job(suffix="bot")
    with database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("owner", "host", 1), ("tiny",), 200)
        assert job is not None
        publish(session, Lease(job.id, job.token), "ft:tiny:a:bot:6")
    with database.read() as session:
        versions = adapters.list_versions(session, [*names, "ft:tiny:a:bot:6"])
    assert versions == {
        names[0]: ("bot", 1),
        names[1]: ("bot", 2),
        names[2]: ("bot", 1),
        names[3]: ("other", 1),
        "ft:tiny:a:bot:6": ("bot", 3),
    }
