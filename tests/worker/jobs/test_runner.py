"""Jobs are run by the real runner on a real database and store; only the trainer is a fake."""

import hashlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import DatabaseUnavailable
from core.jobs.spec import AdapterRef, JobSpec
from core.jobs.status import JobStatus
from core.serving.adapter_format import MANIFEST, WEIGHTS, digest_file, parse_manifest
from core.store import files
from core.store.blobs import Blob, LocalBlobStore
from core.store.queue import leases
from core.store.queue.control import RequestedAction
from core.store.references.collector import Collector
from core.store.references.recorded import RowFirst
from core.store.tables import FileStatus
from tests.harness import fake_trainer
from tests.harness.fake_trainer import MEASURED
from tests.worker.conftest import BASE_MODEL, NOW, Home
from tests.worker.jobs.running import in_background, own_trainers, run, wait_for
from worker.jobs.duty import run_queued
from worker.jobs.host_gate import HostGate
from worker.jobs.runner import trainings
from worker.jobs.slot import WorkerSlot
from worker.trainer_process.run_folder import CONTINUE_FROM, LOG, SPEC, read_spec
from worker.trainer_process.stop import StopFlag


def test_nothing_runs_when_nothing_is_queued(home: Home) -> None:
    assert not run(home)


class TestSuccess:
    def test_gives_one_adapter_and_one_last_event(self, home: Home) -> None:
        job_id = home.queue(steps=4)

        assert run(home)

        job = home.job(job_id)
        assert job.status is JobStatus.SUCCEEDED
        assert job.fine_tuned_model == f"ft:{BASE_MODEL}:local:test:{job_id[-10:]}"
        assert job.trained_tokens == 4
        measured = MEASURED.model_dump(mode="json")
        assert job.result is not None
        job.result.pop("result_files")
        [adapter] = home.adapters(job_id)
        with home.blobs.open(adapter.adapter_sha256) as manifest:
            weights = parse_manifest(manifest.read()).files[WEIGHTS]
        assert job.result == {
            "steps": 4,
            "adapter_step": 4,
            "metrics": {"train_loss": 0.5},
            "measured": measured,
            "weights_sha256": weights.sha256,
            "provenance": fake_trainer.provenance_of({"torch": "2.0"}).model_dump(mode="json"),
        }
        assert adapter.name == job.fine_tuned_model
        assert sum("successfully completed" in event.message for event in home.events(job_id)) == 1
        [attempt] = home.attempts(job_id)
        assert (attempt.outcome, attempt.last_step) == ("succeeded", 4)

    def test_gives_the_result_file_a_record_of_its_own(self, home: Home) -> None:
        job_id = home.queue(steps=4)
        run(home)
        job = home.job(job_id)
        assert job.result is not None
        [file_id] = job.result["result_files"]
        with home.database.read() as session:
            file = files.get(session, file_id)
        assert (file.purpose, file.filename, file.file_type) == ("fine-tune-results", "step_metrics.csv", "csv")
        assert (file.caller, file.columns, file.status) == (job.caller, ["step", "train_loss"], FileStatus.PROCESSED)
        with home.blobs.open(file.sha256) as content:
            assert content.read() == fake_trainer.RESULT_FILE

    def test_stores_every_file_of_the_adapter(self, home: Home) -> None:
        job_id = home.queue(steps=2)
        run(home)

        [adapter] = home.adapters(job_id)
        with home.blobs.open(adapter.adapter_sha256) as manifest_file:
            content = manifest_file.read()
        manifest = parse_manifest(content)
        assert manifest.job_id == job_id
        assert all(home.blobs.exists(file.sha256) for file in manifest.files.values())
        assert adapter.bytes == len(content) + sum(file.bytes for file in manifest.files.values())

    def test_makes_an_event_of_every_step(self, home: Home) -> None:
        job_id = home.queue(steps=50, step_s=0)
        run(home)

        metrics = [event.data for event in home.events(job_id) if event.type == "metrics"]
        assert [numbers["step"] for numbers in metrics if numbers] == list(range(1, 51))
        assert metrics[0] is not None
        assert metrics[0]["train_loss"] == 1.0
        progress = home.job(job_id).progress
        assert progress is not None
        assert progress["step"] == 50

    def test_makes_each_checkpoint_a_model(self, home: Home) -> None:
        job_id = home.queue(steps=4, checkpoint_every=2)
        run(home)

        model = home.job(job_id).fine_tuned_model
        assert [(row.step, row.name) for row in home.checkpoints(job_id)] == [
            (2, f"{model}:ckpt-step-2"),
            (4, f"{model}:ckpt-step-4"),
        ]
        assert all(home.blobs.exists(row.adapter_sha256) for row in home.checkpoints(job_id))

    def test_leaves_only_specification_and_log_in_the_run_folder(self, home: Home) -> None:
        job_id = home.queue(steps=2, says="hello from the trainer")
        run(home)

        folder = home.settings.runs_folder / job_id / "a1"
        assert sorted(path.name for path in folder.iterdir()) == [SPEC, LOG]
        assert "hello from the trainer" in (folder / LOG).read_text()

    def test_tells_the_trainer_where_engines_keep_their_kernels(self, home: Home) -> None:
        job_id = home.queue(steps=1)
        run(home)

        spec = read_spec(home.settings.runs_folder / job_id / "a1")
        assert spec.kernels_folder == str(home.settings.kernels_folder)

    def test_keeps_secrets_from_the_trainer(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LORAMILL_API_KEY", "a-very-secret-key")
        monkeypatch.setenv("HF_TOKEN", "another-secret")
        job_id = home.queue(steps=1)
        run(home)

        [environment] = [e.message for e in home.events(job_id) if e.message.startswith("environment: ")]
        assert "PATH" in environment
        assert "LORAMILL_API_KEY" not in environment
        assert "HF_TOKEN" not in environment


class TestFailure:
    def test_of_the_trainer_keeps_its_code_words_and_lines(self, home: Home) -> None:
        job_id = home.queue(end="fail")
        run(home)

        job = home.job(job_id)
        assert (job.status, job.error_code, job.error_param) == ("failed", "no_trained_tokens", "training_file")
        assert job.error_message == "no token has a weight (training file, line 3, 7)"
        assert home.adapters(job_id) == []

    def test_of_our_own_ends_the_job_and_not_the_worker(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        def break_down(*_arguments: object) -> None:
            raise RuntimeError("a mistake")

        monkeypatch.setattr("worker.jobs.filling.write_spec", break_down)
        job_id = home.queue()

        assert run(home)

        assert home.job(job_id).error_code == "internal_error"

    def test_of_the_adapters_digests_publishes_nothing(self, home: Home) -> None:
        job_id = home.queue(steps=1, damages_adapter=True)
        run(home)

        job = home.job(job_id)
        assert (job.status, job.error_code, job.fine_tuned_model) == ("failed", "adapter_invalid", None)
        assert home.adapters(job_id) == []


class TestDeadTrainer:
    def test_is_replaced_by_one_that_goes_on_from_the_checkpoint(self, home: Home) -> None:
        job_id = home.queue(steps=6, checkpoint_every=2, end="sigkill", end_at_step=4, end_until_token=1)

        assert run(home)
        assert home.job(job_id).status is JobStatus.QUEUED
        assert run(home)

        assert home.job(job_id).status is JobStatus.SUCCEEDED
        first, second = home.attempts(job_id)
        assert (first.outcome, first.exit_signal, first.last_step) == ("trainer died", 9, 3)
        assert (second.outcome, second.resumed_from_step) == ("succeeded", 2)
        assert len(home.adapters(job_id)) == 1

    def test_fails_the_job_when_attempts_are_used_up(self, home: Home) -> None:
        job_id = home.queue(end="exit", says="the reason is here")
        while run(home):
            pass

        job = home.job(job_id)
        assert (job.status, job.error_code, job.attempts) == ("failed", "worker_lost", 3)
        assert "exit status 3" in str(job.error_message)
        assert "the reason is here" in str(job.error_message)

    def test_is_one_that_says_nothing_for_too_long(self, home: Home) -> None:
        job_id = home.queue(end="hang")
        settings = home.settings.model_copy(update={"stall_s": 5, "max_attempts": 1})
        run(home, settings)

        job = home.job(job_id)
        assert (job.status, job.error_code) == ("failed", "worker_lost")
        assert "said nothing for 5 s" in str(job.error_message)


class TestLostLease:
    def test_ends_the_trainer_and_changes_nothing(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.05)
        thread = in_background(home)
        wait_for(lambda: bool(home.events(job_id)))
        take_away(home)
        events_after = len(home.events(job_id))
        thread.join()

        assert home.job(job_id).status is JobStatus.QUEUED
        assert len(home.events(job_id)) == events_after
        assert home.attempts(job_id)[0].outcome == "lost"

    def test_stops_a_trainer_whose_heartbeats_fail(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = home.settings.model_copy(update={"lease_ttl_s": 1.0})
        job_id = home.queue(steps=1000, step_s=0.05)
        thread = in_background(home, settings)
        wait_for(lambda: bool(home.events(job_id)))
        is_away = threading.Event()
        heartbeat = leases.heartbeat

        def fail_while_away(*arguments: object) -> RequestedAction | None:
            if is_away.is_set():
                raise DatabaseUnavailable
            return heartbeat(*arguments)  # type: ignore[arg-type]

        is_away.set()
        monkeypatch.setattr(leases, "heartbeat", fail_while_away)
        assert len(own_trainers()) == 1
        wait_for(lambda: not own_trainers())
        assert home.job(job_id).status is JobStatus.RUNNING
        is_away.clear()
        thread.join()

        assert home.job(job_id).status is JobStatus.QUEUED
        assert home.attempts(job_id)[0].outcome == "released"


class TestDatabaseOutage:
    def test_loses_no_event(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        job_id = home.queue(steps=20, step_s=0.05)
        calls = iter(range(1_000_000))
        heartbeat = leases.heartbeat

        def fail_often(*arguments: object) -> RequestedAction | None:
            if next(calls) % 3:
                raise DatabaseUnavailable
            return heartbeat(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(leases, "heartbeat", fail_often)
        run(home)

        assert home.job(job_id).status is JobStatus.SUCCEEDED
        steps = [event.data["step"] for event in home.events(job_id) if event.type == "metrics" and event.data]
        assert steps == list(range(1, 21))


class TestSlot:
    def test_lets_one_of_two_run_at_a_time(self, home: Home, tmp_path: Path) -> None:
        first, second = home.queue(steps=10, step_s=0.05), home.queue(steps=10, step_s=0.05)
        path = tmp_path / "slots" / "one"
        runtime = home.runtime()
        threads = [
            threading.Thread(
                target=run_queued, args=(runtime, WorkerSlot(path), StopFlag(), trainings(HostGate(runtime)))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        most_at_once = 0
        while any(thread.is_alive() for thread in threads):
            statuses = [home.job(job_id).status for job_id in (first, second)]
            most_at_once = max(most_at_once, statuses.count(JobStatus.RUNNING))
            time.sleep(0.05)  # each runs for ten times as long

        assert most_at_once == 1
        assert [len(home.attempts(job_id)) for job_id in (first, second)] == [1, 1]
        assert [len(home.adapters(job_id)) for job_id in (first, second)] == [1, 1]


def take_away(home: Home) -> None:
    """Reclaim the running job as a sweeper does."""
    with home.database.write() as session:
        [observed] = leases.list_running(session)
        assert leases.reclaim(session, observed, max_attempts=3, now=NOW) is JobStatus.QUEUED


class TestContinuing:
    def test_the_adapter_to_go_on_from_is_put_into_the_run_folder(self, home: Home) -> None:
        first = home.queue(steps=2)
        run(home)
        [adapter] = home.adapters(first)
        ref = AdapterRef(name=adapter.name, adapter_sha256=adapter.adapter_sha256)
        second = home.queue(continue_from=ref, end="exit", end_until_token=1)
        run(home)

        folder = home.settings.runs_folder / second / "a1" / CONTINUE_FROM
        manifest = (folder / MANIFEST).read_bytes()
        assert hashlib.sha256(manifest).hexdigest() == adapter.adapter_sha256
        assert all(digest_file(folder / name) == digest for name, digest in parse_manifest(manifest).files.items())

        run(home)  # each attempt has a folder of its own
        assert home.job(second).status is JobStatus.SUCCEEDED
        assert not list(home.settings.runs_folder.rglob(WEIGHTS))


class CollectedOnce(LocalBlobStore):
    """A store from which everything unreferenced is freed right after the manifest number ``nth`` was stored."""

    def __init__(self, home: Home, nth: int) -> None:
        super().__init__(home.settings.store_folder, announce=RowFirst(home.database))
        self._database = home.database
        self._remaining = nth
        self.freed = 0

    def put_bytes(self, data: bytes) -> Blob:
        blob = super().put_bytes(data)
        self._remaining -= 1
        if self._remaining == 0:
            self.freed = len(Collector(self._database, self, grace_s=0).collect())
        return blob


class TestBytesFreedBeforeTheirRecord:
    """As after a database that was away for longer than the grace; here the grace is nothing."""

    @pytest.mark.parametrize("nth", [1, 2])
    def test_are_stored_again_and_the_job_succeeds(self, home: Home, nth: int) -> None:
        job_id = home.queue(steps=3, checkpoint_every=2)  # the first manifest is the checkpoint's
        store = CollectedOnce(home, nth)
        runtime = replace(home.runtime(), blobs=store)
        duty = trainings(HostGate(runtime, checks=False))
        run_queued(runtime, WorkerSlot(home.settings.home / "slot"), StopFlag(), duty)
        assert store.freed > 0
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert [row.step for row in home.checkpoints(job_id)] == [2]
        [adapter] = home.adapters(job_id)
        for sha256 in (adapter.adapter_sha256, home.checkpoints(job_id)[0].adapter_sha256):
            with home.blobs.open(sha256) as file:
                assert all(home.blobs.exists(part.sha256) for part in parse_manifest(file.read()).files.values())


class TestChangedBytes:
    def test_of_a_training_file_fail_the_job_before_it_trains(self, home: Home) -> None:
        job_id = home.queue(steps=1)
        spec = JobSpec.model_validate(home.job(job_id).spec)
        change(home, spec.training_file.sha256)
        run(home)

        job = home.job(job_id)
        assert (job.status, job.error_code) == (JobStatus.FAILED, "blob_damaged")
        assert f"training file {spec.training_file.id}" in str(job.error_message)
        assert "doctor --deep" in str(job.error_message)
        assert str(home.settings.home) not in str(job.error_message)
        assert not list(home.settings.runs_folder.rglob(LOG))  # no trainer was started

    @pytest.mark.parametrize("part", ["manifest", "weights"])
    def test_of_an_adapter_to_go_on_from_fail_the_job(self, home: Home, part: str) -> None:
        first = home.queue(steps=2)
        run(home)
        [adapter] = home.adapters(first)
        with home.blobs.open(adapter.adapter_sha256) as file:
            manifest = parse_manifest(file.read())
        second = home.queue(continue_from=AdapterRef(name=adapter.name, adapter_sha256=adapter.adapter_sha256))
        change(home, adapter.adapter_sha256 if part == "manifest" else manifest.files[WEIGHTS].sha256)
        run(home)

        assert home.job(second).error_code == "blob_damaged"
        assert adapter.name in str(home.job(second).error_message)


def change(home: Home, sha256: str) -> None:
    """Flip a bit of what is stored under a digest."""
    path = home.settings.store_folder / "blobs" / sha256[:2] / sha256
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
