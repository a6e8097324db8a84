"""Faults of a host are not faults of its jobs: they wait, say why, and run when they can. The trainer is a fake."""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.base_models.registry import IMPORTED_FILE, compute_fingerprint, read_imported
from core.jobs.spec import AdapterRef
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store.queue.claims import WorkerIdentity
from core.store.queue.unfit_hosts import UNFIT, UNPUBLISHED, UNSUITED
from tests.harness.fake_clock import FakeClock
from tests.harness.faulty_store import FaultyStore
from tests.worker.conftest import BASE_MODEL, NOW, Home, import_base_model
from tests.worker.jobs.running import run_on
from worker.jobs.duty import run_next
from worker.jobs.host_gate import HostGate
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.run_folder import ADAPTER
from worker.trainer_process.stop import StopFlag

HOST = "worker-a"
PATH = re.compile(r"(?<![\w.])/(tmp|usr|home|var|work|root)/")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


def on_host(home: Home, clock: FakeClock, host: str = HOST, **fields: Any) -> WorkerRuntime:
    return home.runtime(wall_clock=clock, identity=WorkerIdentity(f"owner of {host}", host, 1), **fields)


def work(runtime: WorkerRuntime, gate: HostGate) -> None:
    """Run what the worker takes at one look, as its poll does."""
    while run_next(runtime, StopFlag(), trainings(gate)):
        pass


def steps_of(home: Home, job_id: str) -> list[int]:
    return [event.data["step"] for event in home.events(job_id) if event.type == "metrics" and event.data]


def assert_waits(home: Home, job_id: str, because: str) -> None:
    job = home.job(job_id)
    assert (job.status, job.attempts, job.error_code) == (JobStatus.QUEUED, 0, None)
    assert job.waiting_reason == f"{HOST} cannot {because}"
    [told] = [event for event in home.events(job_id) if event.level == "warn"]
    assert told.message == job.waiting_reason
    assert told.data is not None
    assert told.data["host"] == HOST
    assert not PATH.search(told.message + str(told.data))


class TestBeforeTheTrainerSpeaks:
    def test_a_missing_base_model(self, home: Home, clock: FakeClock) -> None:
        (home.settings.base_models_folder / BASE_MODEL / IMPORTED_FILE).unlink()
        job_id = home.queue()
        run_on(on_host(home, clock))
        why = f"base model {BASE_MODEL} is not imported in base-models; run `loramill base-models import {BASE_MODEL}`"
        assert_waits(home, job_id, f"run the job now: {why}")

    def test_a_base_model_that_the_registry_does_not_have(self, home: Home, clock: FakeClock) -> None:
        (home.settings.base_models_folder / "base_models.toml").write_text("broken")
        job_id = home.queue()
        run_on(on_host(home, clock))
        assert "base_models.toml" in str(home.job(job_id).waiting_reason)
        assert not PATH.search(str(home.job(job_id).waiting_reason))

    def test_content_that_the_store_lacks(self, home: Home, clock: FakeClock) -> None:
        first = home.queue(steps=1, checkpoint_every=9)
        run_on(on_host(home, clock))
        [adapter] = home.adapters(first)
        job_id = home.queue(continue_from=AdapterRef(name=adapter.name, adapter_sha256=adapter.adapter_sha256))
        home.blobs.delete(adapter.adapter_sha256)
        run_on(on_host(home, clock))
        why = f"content {adapter.adapter_sha256[:12]} is not in the store, so it cannot copy the adapter in"
        assert_waits(home, job_id, f"run the job now: {why}")
        assert list((home.settings.runs_folder / job_id).iterdir()) == []  # nor does a full disk fill up further

    def test_a_trainer_that_cannot_be_started(self, home: Home, clock: FakeClock) -> None:
        job_id = home.queue()
        run_on(on_host(home, clock, trainer_command=("/usr/lib/no-such-python",)))
        assert_waits(
            home, job_id, "run the job now: the trainer ended with exit status 1 and no result, before it said anything"
        )

    def test_runs_when_the_fault_is_mended(self, home: Home, clock: FakeClock) -> None:
        mark = home.settings.base_models_folder / BASE_MODEL / IMPORTED_FILE
        mark.rename(mark.with_name("away"))
        job_id = home.queue(steps=1)
        runtime = on_host(home, clock)
        gate = HostGate(runtime, clock=clock)
        work(runtime, gate)
        mark.with_name("away").rename(mark)
        work(runtime, gate)
        assert home.job(job_id).status is JobStatus.QUEUED

        clock.now_s += 600
        work(runtime, gate)
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert home.job(job_id).waiting_reason is None


def replace_base_model(home: Home) -> str:
    """Import another base model under the same name; give the fingerprint of the one before."""
    before = fingerprint_of(home)
    folder = home.settings.base_models_folder / BASE_MODEL
    (folder / "config.json").write_text('{"another": 1}')
    imported = read_imported(folder).model_copy(update={"fingerprint": compute_fingerprint(folder)})
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return before


def fingerprint_of(home: Home) -> str:
    return read_imported(home.settings.base_models_folder / BASE_MODEL).fingerprint


class TestAnotherBaseModelOfTheName:
    def test_trains_no_job_that_was_made_for_the_one_before(self, home: Home, clock: FakeClock) -> None:
        before = replace_base_model(home)
        job_id = home.queue(steps=1, base_model_fingerprint=before)
        runtime = on_host(home, clock)
        run_on(runtime)
        here = fingerprint_of(home)
        why = f"the job was made for {BASE_MODEL} with the fingerprint {before[:12]}, and here it has {here[:12]}"
        remedy = "import the same base model, or cancel the job and make it anew"
        assert_waits(home, job_id, f"run the job now: {why}; {remedy}")
        assert [attempt.outcome for attempt in home.attempts(job_id)] == [UNSUITED]

        shutil.rmtree(home.settings.base_models_folder / BASE_MODEL)
        import_base_model(home.settings)
        clock.now_s += 15
        run_on(runtime)
        assert home.job(job_id).status is JobStatus.SUCCEEDED

    def test_goes_on_from_no_checkpoint_of_the_one_before(self, home: Home, clock: FakeClock) -> None:
        job_id = home.queue(
            steps=4,
            checkpoint_every=2,
            end="fail_by_host",
            end_at_step=4,
            end_until_token=1,
            base_model_fingerprint=fingerprint_of(home),
        )
        runtime = on_host(home, clock)
        run_on(runtime)
        replace_base_model(home)
        clock.now_s += 15
        run_on(runtime)
        job = home.job(job_id)
        assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
        assert [attempt.outcome for attempt in home.attempts(job_id)] == [UNFIT, UNSUITED]
        assert steps_of(home, job_id) == [1, 2, 3]

    def test_does_not_keep_the_host_from_the_jobs_that_were_made_for_it(self, home: Home, clock: FakeClock) -> None:
        before = replace_base_model(home)
        others = [home.queue(steps=1, base_model_fingerprint=before) for _ in range(3)]
        own = home.queue(steps=1, base_model_fingerprint=fingerprint_of(home))
        runtime = on_host(home, clock)
        work(runtime, HostGate(runtime, clock=clock))
        assert home.job(own).status is JobStatus.SUCCEEDED
        assert {home.job(job_id).status for job_id in others} == {JobStatus.QUEUED}


class TestTrainer:
    def test_that_finds_its_host_at_fault_goes_on_later_from_its_checkpoint(self, home: Home, clock: FakeClock) -> None:
        job_id = home.queue(steps=4, checkpoint_every=2, end="fail_by_host", end_at_step=4, end_until_token=1)
        runtime = on_host(home, clock)
        run_on(runtime)
        assert_waits(home, job_id, "run the job now: no space is left to go on with the run")

        clock.now_s += 600
        run_on(runtime)
        first, second = home.attempts(job_id)
        assert (first.outcome, first.last_step) == (UNFIT, 3)
        assert (second.outcome, second.resumed_from_step) == ("succeeded", 2)

    def test_that_finds_its_host_unsuited_says_nothing_of_the_host(self, home: Home, clock: FakeClock) -> None:
        for _ in range(2):
            home.queue(end="unsuited", end_at_step=1)
        own = home.queue(steps=1)
        runtime = on_host(home, clock)
        work(runtime, HostGate(runtime, clock=clock))
        assert home.job(own).status is JobStatus.SUCCEEDED


class TestPublishing:
    def test_waits_for_space_with_the_training_done_once(self, home: Home, clock: FakeClock) -> None:
        store = FaultyStore(home.blobs)
        job_id = home.queue(steps=3, checkpoint_every=9)
        store.is_full = True
        runtime = on_host(home, clock, blobs=store)
        run_on(runtime)
        assert_waits(home, job_id, "store the result of its training now: no space is left to store the result")

        clock.now_s += 20
        run_on(runtime)  # still full
        assert home.job(job_id).status is JobStatus.QUEUED

        store.is_full = False
        clock.now_s += 40
        assert run_on(on_host(home, clock, blobs=store))  # a worker that was started anew
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert [attempt.outcome for attempt in home.attempts(job_id)] == [UNPUBLISHED, UNPUBLISHED, "succeeded"]
        assert [adapter.token for adapter in home.adapters(job_id)] == [3]
        assert steps_of(home, job_id) == [1, 2, 3]
        folders = home.settings.runs_folder / job_id
        assert sorted(path.name for path in folders.rglob("*") if path.is_file()) == ["spec.json", "trainer.log"]

    def test_trains_again_where_the_result_is_damaged(self, home: Home, clock: FakeClock) -> None:
        store = FaultyStore(home.blobs)
        store.is_full = True
        job_id = home.queue(steps=3, checkpoint_every=9)
        runtime = on_host(home, clock, blobs=store)
        run_on(runtime)
        [weights] = home.settings.runs_folder.glob(f"{job_id}/a1/{ADAPTER}/*.safetensors")
        weights.write_bytes(b"Weights of step 3")

        store.is_full = False
        clock.now_s += 20
        run_on(runtime)
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert steps_of(home, job_id) == [1, 2, 3, 1, 2, 3]

    def test_never_takes_another_jobs_result(self, home: Home, clock: FakeClock) -> None:
        store = FaultyStore(home.blobs)
        store.is_full = True
        first, second = home.queue(steps=3, checkpoint_every=9), home.queue(steps=2, checkpoint_every=9)
        runtime = on_host(home, clock, blobs=store)
        run_on(runtime)
        runs = home.settings.runs_folder
        shutil.copytree(runs / first / "a1", runs / second / "a9")

        store.is_full = False
        run_on(runtime)
        assert home.job(second).status is JobStatus.SUCCEEDED
        assert steps_of(home, second) == [1, 2]


class TestGate:
    def test_closes_after_two_jobs_and_opens_when_the_host_is_sound(self, home: Home, clock: FakeClock) -> None:
        store = FaultyStore(home.blobs)
        store.is_full = True
        jobs = [home.queue(steps=1, checkpoint_every=9) for _ in range(4)]
        runtime = on_host(home, clock, blobs=store)
        gate = HostGate(runtime, clock=clock)
        work(runtime, gate)
        for _ in range(100):
            clock.now_s += 10
            work(runtime, gate)
        attempts = [len(home.attempts(job_id)) for job_id in jobs]
        assert attempts == [1, 1, 0, 0]  # the store says that it takes nothing, so nothing is claimed
        other = HostGate(runtime, checks=False, clock=clock)
        assert other.claimable() == ()

        store.is_full = False
        clock.now_s += 600
        assert other.claimable() == ()  # it leaves the check to the one that does it
        work(runtime, gate)
        assert [home.job(job_id).status for job_id in jobs] == [JobStatus.SUCCEEDED] * 4
        assert other.claimable() == home.settings.base_models

    def test_jobs_that_it_can_never_run_keep_no_other_waiting(self, home: Home, clock: FakeClock) -> None:
        for _ in range(2):
            home.queue(end="fail_by_host", end_at_step=1)
        own = home.queue(steps=1)
        runtime = on_host(home, clock)
        gate = HostGate(runtime, clock=clock)
        for _ in range(30):
            work(runtime, gate)
            clock.now_s += 60
        assert home.job(own).status is JobStatus.SUCCEEDED

    def test_opens_for_the_base_models_that_verify(self, home: Home, clock: FakeClock) -> None:
        settings = home.settings.model_copy(update={"base_models": (BASE_MODEL, "phi-2")})
        (home.settings.base_models_folder / BASE_MODEL / "tokenizer.json").write_text("{ }")
        store = FaultyStore(home.blobs)
        store.is_full = True
        for _ in range(2):
            home.queue(steps=1, checkpoint_every=9)
        runtime = on_host(home, clock, blobs=store, settings=settings)
        gate = HostGate(runtime, clock=clock)
        work(runtime, gate)
        store.is_full = False
        clock.now_s += 600
        assert gate.claimable() == ()  # the one is damaged, the other is not imported

        shutil.rmtree(home.settings.base_models_folder / BASE_MODEL)
        import_base_model(home.settings)
        clock.now_s += 600
        assert gate.claimable() == (BASE_MODEL,)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 16 MiB; skips the test where that is not allowed."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    assert shutil.disk_usage(path.parent).free == 0


@pytest.mark.slow
def test_a_full_disk_fails_none_of_twenty_jobs_and_all_run_once_there_is_room(home: Home, clock: FakeClock) -> None:
    runs = home.settings.runs_folder
    with small_disk(runs):
        filler = runs / "filler"
        fill_up(filler)
        jobs = [home.queue(steps=1, step_s=0) for _ in range(20)]
        runtime = on_host(home, clock)
        gate = HostGate(runtime, clock=clock)
        for _ in range(60):
            work(runtime, gate)
            clock.now_s += 10
        assert {home.job(job_id).status for job_id in jobs} == {JobStatus.QUEUED}
        assert sum(len(home.attempts(job_id)) for job_id in jobs) == 2
        assert all("no space is left" in str(home.job(job_id).waiting_reason) for job_id in jobs[:2])

        filler.unlink()
        for _ in range(2):
            clock.now_s += 600
            work(runtime, gate)
        assert {home.job(job_id).status for job_id in jobs} == {JobStatus.SUCCEEDED}


@pytest.mark.slow
def test_one_host_of_three_without_the_base_model_fails_none_of_fifty_jobs(home: Home, tmp_path: Path) -> None:
    runtimes = []
    for host in ("a", "b", "c"):
        settings = Settings(home=tmp_path / host, database_url=home.settings.database)
        if host != "c":
            import_base_model(settings)
        identity = WorkerIdentity(f"owner of {host}", host, 1)
        runtimes.append(home.runtime(settings, identity=identity))
    jobs = [home.queue(steps=1, step_s=0, checkpoint_every=9) for _ in range(50)]
    threads = [threading.Thread(target=work, args=(runtime, HostGate(runtime))) for runtime in runtimes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for runtime in runtimes[:2]:  # a job that came back when both were about to end
        work(runtime, HostGate(runtime))

    assert {home.job(job_id).status for job_id in jobs} == {JobStatus.SUCCEEDED}
    ended = [(attempt.host, attempt.outcome) for job_id in jobs for attempt in home.attempts(job_id)]
    assert ended.count(("c", UNFIT)) == 2
    assert len(ended) == 52
