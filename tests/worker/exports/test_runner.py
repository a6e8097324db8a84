"""An export's attempts: by the real exporter on a tiny model, and by processes that behave otherwise."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store import adapters
from core.store import exports as store
from core.store.queue import control
from core.store.references.collector import Collector
from tests.worker.exports.deployment import NOW, ExportHome
from tests.worker.jobs.running import wait_for
from worker.trainer_process.stop import StopFlag

# what an exporter may be instead, as a program that gets a run folder and a descriptor
_HEAD = "import os, sys, time; from pathlib import Path; folder, fd = Path(sys.argv[1]), int(sys.argv[3]); "
_PHASE = b'{"run": 0, "message": {"type": "phase", "name": "writing"}}\n'
_NOTE = b'{"run": 0, "message": {"type": "note", "level": "info", "message": "Writing"}}\n'
_SPEAK = f"os.write(fd, {_PHASE + _NOTE!r}); "


def program(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", _HEAD + source)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ExportHome]:
    home = ExportHome.make(tmp_path / "home", max_attempts=2)
    yield home
    home.database.dispose()


def test_the_exporter_makes_tries_and_leaves_what_is_stored(home: ExportHome) -> None:
    job_id = home.queue()
    assert home.run()
    job = home.job(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error_message
    assert job.result is not None
    assert job.result["tensors"]["adapted"] == 14
    files = home.files(job_id)
    assert files.keys() == {"adapter.gguf", "Modelfile", "manifest.json", "export.json"}
    assert all(home.blobs.exists(sha256) for sha256 in files.values())
    assert home.messages(job_id)[-1].startswith("The export has successfully completed. On 1 prompts ")
    left = {path.name for path in home.settings.runs_folder.rglob("*") if path.is_file()}
    assert left <= {"spec.json", "trainer.log", "report.json"}


def test_what_it_made_stays_until_it_is_deleted(home: ExportHome) -> None:
    job_id = home.queue()
    assert home.run()
    files = home.files(job_id)
    collector = Collector(home.database, home.blobs, grace_s=0)
    collector.collect()
    assert all(home.blobs.exists(sha256) for sha256 in files.values())
    with home.database.write() as session:
        freed = store.drop_files(session, job_id)
    assert freed.bytes > 0
    assert [said for said in freed.keeps if f"the manifest of {home.model}" in said or home.model in said]
    collector.collect()
    # the manifest is the model's too
    assert {name for name, sha256 in files.items() if home.blobs.exists(sha256)} == {"manifest.json"}


def test_one_that_differs_fails_and_stores_nothing(home: ExportHome) -> None:
    said = b'{"run": 0, "message": {"type": "failed", "code": "export_differs", "message": "it is another model"}}\n'
    job_id = home.queue()
    assert home.run(program(f"os.write(fd, {said!r}); sys.exit(1)"))
    job = home.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "export_differs")
    assert job.error_message == "it is another model"
    assert home.files(job_id) == {}


def test_an_exporter_that_dies_is_tried_again_and_then_given_up(home: ExportHome) -> None:
    job_id = home.queue()
    dies = program(_SPEAK + "print('last words', flush=True); os.kill(os.getpid(), 9)")
    assert home.run(dies)
    assert home.job(job_id).status is JobStatus.QUEUED
    assert "The exporter was killed by SIGKILL in attempt 1 of 2" in home.messages(job_id)
    assert home.run(dies)
    job = home.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "worker_lost")
    assert "last words" in (job.error_message or "")


def test_one_that_ends_well_without_a_report_is_not_believed(home: ExportHome) -> None:
    job_id = home.queue()
    assert home.run(program(_SPEAK))
    assert home.job(job_id).status is JobStatus.QUEUED


def test_one_that_dies_unheard_is_its_hosts_fault(home: ExportHome) -> None:
    job_id = home.queue()
    assert home.run(program("sys.exit(1)"))
    job = home.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert "before it said anything" in (job.waiting_reason or "")


def test_cancelling_ends_the_exporter(home: ExportHome) -> None:
    job_id = home.queue()
    thread = threading.Thread(target=home.run, args=(program(_SPEAK + "time.sleep(600)"),))
    thread.start()
    wait_for(lambda: (home.job(job_id).progress or {}).get("phase") == "writing")
    with home.database.write() as session:
        control.cancel(session, job_id, NOW, JobKind.EXPORT)
    thread.join(30)
    assert home.job(job_id).status is JobStatus.CANCELLED


def test_a_worker_that_stops_gives_the_export_back_uncounted(home: ExportHome) -> None:
    job_id, stop = home.queue(), StopFlag()
    thread = threading.Thread(target=home.run, args=(program(_SPEAK + "time.sleep(600)"), stop))
    thread.start()
    wait_for(lambda: (home.job(job_id).progress or {}).get("phase") == "writing")
    stop.request()
    thread.join(30)
    job = home.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert list(home.settings.runs_folder.rglob("exported_adapter")) == []


def test_an_adapter_stays_as_long_as_its_export_waits(home: ExportHome) -> None:
    job_id = home.queue()
    with home.database.write() as session:
        adapters.delete(session, home.model)
    collector = Collector(home.database, home.blobs, grace_s=0)
    collector.collect()
    assert home.run()
    assert home.job(job_id).status is JobStatus.SUCCEEDED


def test_another_base_model_of_the_name_is_none_of_this_hosts(home: ExportHome) -> None:
    job_id = home.queue(base_model_fingerprint="f" * 64)
    assert home.run()
    assert home.job(job_id).status is JobStatus.QUEUED
    assert "fingerprint" in (home.job(job_id).waiting_reason or "")
