"""Jobs that make others again, run by the real runner; only the trainer is a fake, that has a version of torch."""

from typing import Any

import pytest

from core.jobs.events import EventLevel
from core.jobs.status import JobStatus
from core.store import adapters
from core.store.references.collector import Collector
from core.store.references.rows import let_go
from tests.harness import fake_trainer
from tests.harness.fake_trainer import MEASURED, TORCH
from tests.worker.conftest import Home
from tests.worker.jobs.running import run, run_on
from worker.trainer_process.run_folder import read_spec

NEWER = (*fake_trainer.COMMAND, "--torch", "2.1")


def verdict_of(home: Home, job_id: str) -> dict[str, Any]:
    job = home.job(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    verdict: dict[str, Any] = job.result["rerun"]
    return verdict


def told_of(home: Home, job_id: str) -> tuple[EventLevel, str]:
    """Give the last event but one, before the one that says that the job has succeeded."""
    event = home.events(job_id)[-2]
    return event.level, event.message


def test_the_same_bits_are_said_to_be(home: Home) -> None:
    first = home.queue()
    run(home)
    again = home.queue_again(first)
    run(home)
    assert verdict_of(home, again) == {"same_weights": True, "may_be_why": [], "unrecorded": False}
    assert told_of(home, again) == (EventLevel.INFO, f"The adapter's weights are the same bits as those of {first}")
    [one], [other] = home.adapters(first), home.adapters(again)
    assert one.adapter_sha256 != other.adapter_sha256  # whose manifests name their jobs


def test_other_bits_are_told_with_the_library_that_changed(home: Home) -> None:
    first = home.queue()
    run(home)
    again = home.queue_again(first)
    run_on(home.runtime(trainer_command=NEWER))
    verdict = verdict_of(home, again)
    assert verdict["same_weights"] is False
    assert verdict["may_be_why"] == [{"name": "torch", "this": "2.1", "other": TORCH}]
    level, sentence = told_of(home, again)
    assert level is EventLevel.WARN
    assert sentence.endswith(f"of {first}. What may be why: torch was {TORCH}, is 2.1")


def test_any_other_job_is_told_nothing_of_the_kind(home: Home) -> None:
    job_id = home.queue()
    run(home)
    result = home.job(job_id).result
    assert result is not None
    assert "rerun" not in result
    assert not any("same bits" in event.message for event in home.events(job_id))


def test_a_rerun_must_not_choose_what_the_other_run_chose(home: Home) -> None:
    first = home.queue()
    run(home)
    again = home.queue_again(first)
    run(home)
    folders = home.settings.runs_folder
    chosen, repeated = (read_spec(folders / job_id / "a1") for job_id in (first, again))
    assert (chosen.base_model_dtype, chosen.token_budget) == ("auto", None)
    assert (repeated.base_model_dtype, repeated.token_budget) == (MEASURED.machine.dtype, MEASURED.token_budget)


def test_where_nothing_is_left_of_the_other_it_cannot_be_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job of an earlier version, whose model is deleted while its rerun waits."""
    first = home.queue()
    with monkeypatch.context() as earlier:
        earlier.setattr("worker.jobs.publication.publishing.WEIGHTS_SHA256", "of no interest then")
        run(home)
    again = home.queue_again(first)
    with home.database.write() as session:
        deleted = adapters.delete(session, home.adapters(first)[0].name)
        let_go(session, deleted.digests)
    Collector(home.database, home.blobs, 0).collect()
    run(home)
    assert verdict_of(home, again)["same_weights"] is None
    assert told_of(home, again)[1].endswith("cannot be told: those are gone")


def test_an_earlier_versions_weights_are_found_in_its_adapter(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = home.queue()
    with monkeypatch.context() as earlier:
        earlier.setattr("worker.jobs.publication.publishing.WEIGHTS_SHA256", "of no interest then")
        run(home)
    again = home.queue_again(first)
    run(home)
    assert verdict_of(home, again)["same_weights"] is True
