"""A training that asks for it is followed by an evaluation of what it published, made with the publication."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import BaseModelInvalid
from core.evaluations.general_text import GENERAL_TEXT_VERSION
from core.evaluations.spec import EvaluationSpec
from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, FileRef, JobEvaluation, JobSpec
from core.jobs.status import JobStatus
from core.store import adapters, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.store.tables import JobRecord
from core.text.held_out import draw, hash_of
from tests.harness.job_specs import make_job_spec
from tests.worker.evaluating.deployment import BASE, NOW, EvaluationHome
from worker.jobs.blob_transfer import StoredResults
from worker.jobs.claim import Claim
from worker.jobs.publication.follow_up import evaluation_after

ASKED = JobEvaluation(metrics=("exact_match", "nats_per_token"), max_rows=4)
ANSWERS = ["yes", "no"] * 30


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EvaluationHome]:
    home = EvaluationHome.make(tmp_path / "home")
    yield home
    home.database.dispose()


@pytest.fixture
def file(home: EvaluationHome) -> FileRef:
    return home.store_rows(ANSWERS)


def running(home: EvaluationHome, file: FileRef, **fields: Any) -> JobRecord:
    with home.database.write() as session:
        spec = make_job_spec(file, max_length=256, **{"evaluation": ASKED} | fields)
        jobs.create(session, NewJob("someone", spec, {}, "0" * 64), NOW)
        job = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), NOW)
        assert job is not None
        return job


def publication(home: EvaluationHome) -> Publication:
    part, manifest = home.blobs.put_bytes(b"weights"), home.blobs.put_bytes(b"manifest")
    return Publication(StoredAdapter(manifest.sha256, 9, (part.sha256,)), "ft:x", "", trained_tokens=1, result={})


def train_earlier(home: EvaluationHome, file: FileRef) -> AdapterRef:
    """Put an adapter into the deployment that a job on this file made."""
    job = running(home, file, evaluation=None, validation_file=home.store_rows(["a"], prompt="a"))  # all is trained on
    made = replace(publication(home), name="ft:earlier")
    with home.database.write() as session:
        leases.publish(session, Lease(job.id, job.token), made, AttemptEnd(), NOW)
    return AdapterRef(name=made.name, adapter_sha256=made.adapter.sha256)


def follow_up(home: EvaluationHome, job: JobRecord, published: Publication) -> NewJob | None:
    def find_spec(name: str) -> JobSpec | None:
        with home.database.read() as session:
            return adapters.find_spec(session, name)

    return evaluation_after(job, published, home.settings, home.blobs, is_chat=False, earlier_spec=find_spec)


def specification(new: NewJob | None) -> EvaluationSpec:
    assert new is not None
    assert isinstance(new.spec, EvaluationSpec)
    return new.spec


def test_it_asks_what_the_job_held_out_by_hash(home: EvaluationHome, file: FileRef) -> None:
    job = running(home, file)
    new = follow_up(home, job, publication(home))
    assert new is not None
    assert isinstance(new.spec, EvaluationSpec)
    prompts = [f"p{line}" for line in range(1, 61)]
    held_out = draw(prompts)
    lowest = sorted(
        (hash_of(prompt), line) for line, prompt in enumerate(prompts, start=1) if hash_of(prompt) in held_out
    )
    assert list(new.spec.lines) == sorted(line for _, line in lowest[:4])
    assert [model.name for model in new.spec.models] == [BASE, "ft:x"]
    assert (new.caller, new.spec.job, new.spec.metrics) == ("someone", job.id, ASKED.metrics)


def test_it_asks_a_validation_file_whole(home: EvaluationHome, file: FileRef) -> None:
    other = home.store_rows(["a", "b", "c"], prompt="other")
    job = running(home, file, validation_file=other)
    spec = specification(follow_up(home, job, publication(home)))
    assert (spec.file.id, spec.lines, spec.unchecked_models, spec.learnt) == (other.id, (1, 2, 3), (), 0)


def test_it_asks_what_the_adapter_forgot_and_knows_by_heart(home: EvaluationHome, file: FileRef) -> None:
    job = running(home, file)
    spec = specification(follow_up(home, job, publication(home)))
    assert spec.general_text == GENERAL_TEXT_VERSION
    [trained] = spec.trained
    assert (trained.model, trained.file, len(trained.lines)) == ("ft:x", file, 50)
    assert not set(trained.lines) & set(spec.lines)
    without = JobEvaluation(metrics=("exact_match",))  # by no metric that says how surprised a model is
    spec = specification(follow_up(home, running(home, file, evaluation=without), publication(home)))
    assert (spec.general_text, spec.trained) == (None, ())


def test_it_leaves_out_rows_of_a_validation_file_that_were_trained_on(home: EvaluationHome, file: FileRef) -> None:
    other = home.store_rows(["a"] * 63)  # the prompts of the first 60 are the file's
    job = running(home, file, validation_file=other)
    spec = specification(follow_up(home, job, publication(home)))
    assert (spec.lines, spec.learnt) == ((61, 62, 63), 60)
    job = running(home, file, validation_file=home.store_rows(["a"] * 61))
    assert follow_up(home, job, publication(home)) is None


def test_it_leaves_out_rows_that_an_earlier_adapter_was_trained_on(home: EvaluationHome, file: FileRef) -> None:
    earlier = train_earlier(home, home.store_rows(["a"] * 60, prompt="other"))
    judging = home.store_rows(["a"] * 70, prompt="other")
    job = running(home, file, validation_file=judging, continue_from=earlier)
    assert min(specification(follow_up(home, job, publication(home))).lines) > 60


def test_it_says_where_nobody_knows_what_an_earlier_adapter_was_trained_on(home: EvaluationHome, file: FileRef) -> None:
    gone = home.store_rows(["a"] * 60, prompt="other")
    job = running(home, file, continue_from=train_earlier(home, gone))
    home.lose(gone.sha256)
    assert specification(follow_up(home, job, publication(home))).unchecked_models == ("ft:x",)


def test_there_is_none_where_none_is_asked_or_too_little_is_held_out(home: EvaluationHome, file: FileRef) -> None:
    job = running(home, file, evaluation=None)
    assert follow_up(home, job, publication(home)) is None
    job = running(home, home.store_rows(["a", "b", "c"]))
    assert follow_up(home, job, publication(home)) is None


def test_a_base_model_that_cannot_be_read_is_the_hosts_fault(home: EvaluationHome, file: FileRef) -> None:
    job = running(home, file)
    (home.settings.base_models_folder / BASE / "tokenizer.json").write_text("{")
    with pytest.raises(BaseModelInvalid):
        follow_up(home, job, publication(home))


def test_it_is_queued_in_the_transaction_that_publishes(home: EvaluationHome, file: FileRef) -> None:
    job = running(home, file)
    published = publication(home)
    new = follow_up(home, job, published)
    claim = Claim(home.database, home.blobs, Lease(job.id, job.token), lease_ttl_s=30)
    results = StoredResults(home.blobs.put_bytes(b"step\n"), ("step",))
    claim.publish(published, results, AttemptEnd(), new)
    with home.database.read() as session:
        ended = jobs.get(session, job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert ended.result is not None
        evaluation = jobs.get(session, ended.result["evaluation_id"], JobKind.EVALUATION)
        assert evaluation.status is JobStatus.QUEUED
    with home.serving_engine() as url:
        assert home.run(url)
    assert home.job(evaluation.id).status is JobStatus.SUCCEEDED
    assert [report["model"] for report in (home.job(evaluation.id).result or {})["memory"]] == ["ft:x"]
