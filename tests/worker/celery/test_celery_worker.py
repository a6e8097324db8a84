"""Real workers, started as the command line starts them, with a real broker or none; fake trainers."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.dispatch.doorbell import Doorbell
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.process.bound import bound
from core.settings import Settings
from tests.harness.servers.valkey import Valkey
from tests.worker.conftest import Home
from tests.worker.jobs.running import fake_trainers
from worker.__main__ import worker_argv, worker_environment
from worker.jobs.slot import WorkerSlot, slot_path

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    # a path of pytest's own can be too long for a socket
    with tempfile.TemporaryDirectory(prefix="loramill-") as folder, Valkey(Path(folder)) as valkey:
        yield valkey


@pytest.fixture
def settings(tmp_path: Path, valkey: Valkey) -> Settings:
    """A broker, and a poll that comes too late to be what starts a job."""
    return Settings(
        home=tmp_path / "home",
        broker_url=valkey.url,
        heartbeat_s=0.2,
        lease_ttl_s=2,
        sweep_s=0.2,
        poll_s=3600,
        stop_grace_s=5,
    )


class Worker:
    """A worker in processes of its own; the test's end is its end."""

    def __init__(self, settings: Settings, log: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
        for name in ("home", "broker_url", "heartbeat_s", "lease_ttl_s", "sweep_s", "poll_s", "stop_grace_s"):
            environ[f"LORAMILL_{name.upper()}"] = str(getattr(settings, name))
        arguments = worker_argv(settings)
        assert arguments[0] == "--app=worker.celery.app"
        arguments[0] = "--app=tests.worker.celery.fake_app"
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                bound([sys.executable, "-m", "worker.celery", *arguments]),
                env=worker_environment(environ),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._slot_path = slot_path(settings.runs_folder, self.process.pid, JobKind.FINE_TUNING)

    def wait_until_ready(self) -> None:
        """Wait for Celery, and for the end of the poll's first look, which would take a job queued meanwhile."""
        self.wait_for(lambda: " ready." in self.log.read_text() and self._has_looked())

    def _has_looked(self) -> bool:
        if not self._slot_path.exists():
            return False
        with WorkerSlot(self._slot_path).take() as free:
            return free

    def wait_for(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)

    def tree(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def trainers(self) -> list[psutil.Process]:
        return fake_trainers(self.tree())


StartWorker = Callable[[], Worker]


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[StartWorker]:
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(settings, tmp_path / f"worker-{len(workers)}.log"))
        return workers[-1]

    yield start
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


def is_running(home: Home, job_id: str) -> bool:
    return home.job(job_id).status is JobStatus.RUNNING and bool(home.events(job_id))


class TestMessage:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """A sweeper that comes too late as well; its first look is over before the worker is ready."""
        return settings.model_copy(update={"sweep_s": 3600.0})

    def test_starts_the_job(self, home: Home, settings: Settings, start_worker: StartWorker) -> None:
        worker = start_worker()
        worker.wait_until_ready()
        job_id = home.queue(steps=4)

        assert Doorbell(settings).notify(job_id)

        worker.wait_for(lambda: home.job(job_id).status is JobStatus.SUCCEEDED)
        assert len(home.attempts(job_id)) == 1
        # run by a process of the pool
        assert home.attempts(job_id)[0].pid != worker.process.pid


def test_the_sweeper_rings_for_a_job_that_nobody_rang_for(home: Home, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.wait_until_ready()
    job_id = home.queue(steps=2)
    worker.wait_for(lambda: home.job(job_id).status is JobStatus.SUCCEEDED)
    assert home.attempts(job_id)[0].pid != worker.process.pid


def test_sigterm_releases_the_job_at_a_checkpoint(home: Home, settings: Settings, start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.wait_until_ready()
    job_id = home.queue(steps=1000, step_s=0.05)
    Doorbell(settings).notify(job_id)
    worker.wait_for(lambda: is_running(home, job_id))

    worker.process.terminate()
    worker.process.wait(30)

    job = home.job(job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    [attempt] = home.attempts(job_id)
    assert attempt.outcome == "released"
    assert home.checkpoints(job_id)[-1].step == attempt.last_step


def test_a_worker_whose_broker_died_still_stops_when_told(
    home: Home, settings: Settings, start_worker: StartWorker, valkey: Valkey
) -> None:
    worker = start_worker()
    worker.wait_until_ready()
    job_id = home.queue(steps=1000, step_s=0.05)
    Doorbell(settings).notify(job_id)
    worker.wait_for(lambda: is_running(home, job_id))
    valkey.kill()
    time.sleep(3)  # Celery's own heartbeat, where it is on, tries the dead broker every two seconds

    worker.process.terminate()
    worker.process.wait(45)

    assert home.job(job_id).status is JobStatus.QUEUED


@pytest.mark.parametrize("whom", ["main", pytest.param("pool", marks=pytest.mark.slow)])
def test_a_killed_worker_takes_its_trainer_with_it_and_another_finishes(
    home: Home, settings: Settings, start_worker: StartWorker, whom: str
) -> None:
    worker = start_worker()
    worker.wait_until_ready()
    # It hangs, so it would not notice by itself that nobody listens any more.
    job_id = home.queue(steps=20, checkpoint_every=5, end="hang", end_at_step=12, end_until_token=1)
    Doorbell(settings).notify(job_id)
    worker.wait_for(lambda: (home.job(job_id).progress or {}).get("step") == 11)
    [trainer] = worker.trainers()
    victim = worker.process.pid if whom == "main" else home.attempts(job_id)[0].pid

    os.kill(victim, signal.SIGKILL)

    psutil.wait_procs([trainer], timeout=10)
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    rescuer = start_worker()
    rescuer.wait_for(lambda: home.job(job_id).status is JobStatus.SUCCEEDED)
    first, second = home.attempts(job_id)
    assert first.outcome == "lost"
    assert second.resumed_from_step == 10
    assert len(home.adapters(job_id)) == 1
    assert sum("successfully completed" in event.message for event in home.events(job_id)) == 1


def test_a_worker_that_was_stopped_beyond_its_lease_changes_nothing(
    home: Home, settings: Settings, start_worker: StartWorker
) -> None:
    zombie = start_worker()
    zombie.wait_until_ready()
    job_id = home.queue(steps=40, step_s=0.05, checkpoint_every=5)
    Doorbell(settings).notify(job_id)
    zombie.wait_for(lambda: is_running(home, job_id))
    frozen = zombie.tree()
    for process in frozen:
        process.suspend()
    rescuer = start_worker()
    rescuer.wait_for(lambda: home.job(job_id).token == 2)
    for process in frozen:
        # a worker that goes on first ends its children at once
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    rescuer.wait_for(lambda: home.job(job_id).status is JobStatus.SUCCEEDED)
    zombie.wait_for(lambda: not zombie.trainers())

    assert [(attempt.token, attempt.outcome) for attempt in home.attempts(job_id)] == [(1, "lost"), (2, "succeeded")]
    [adapter] = home.adapters(job_id)
    assert adapter.token == 2
    assert not (settings.runs_folder / job_id / "a1" / "adapter").exists()


class TestWithoutBroker:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(
            home=tmp_path / "home",
            broker_url=f"redis+socket://{tmp_path / 'nobody-listens'}",
            heartbeat_s=0.2,
            lease_ttl_s=2,
            sweep_s=0.2,
            poll_s=0.3,
            stop_grace_s=5,
        )

    @pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
    def test_jobs_run_by_the_workers_own_look_and_a_stopped_worker_releases_its_job(
        self, home: Home, start_worker: StartWorker, number: signal.Signals
    ) -> None:
        job_id = home.queue(steps=4)
        worker = start_worker()

        worker.wait_for(lambda: home.job(job_id).status is JobStatus.SUCCEEDED)
        later = home.queue(steps=4)
        worker.wait_for(lambda: home.job(later).status is JobStatus.SUCCEEDED)
        assert home.attempts(job_id)[0].pid == worker.process.pid
        endless = home.queue(steps=1000, step_s=0.05)
        worker.wait_for(lambda: is_running(home, endless))

        worker.process.send_signal(number)
        worker.process.wait(30)

        assert home.job(endless).status is JobStatus.QUEUED
        assert [attempt.outcome for attempt in home.attempts(endless)] == ["released"]


class TestDoorbellAndPollTogether:
    @pytest.fixture
    def settings(self, tmp_path: Path, valkey: Valkey) -> Settings:
        return Settings(home=tmp_path / "home", broker_url=valkey.url, heartbeat_s=0.2, sweep_s=0.2, poll_s=0.05)

    def test_run_each_job_once_and_one_at_a_time(
        self, home: Home, settings: Settings, start_worker: StartWorker
    ) -> None:
        worker = start_worker()
        worker.wait_until_ready()
        doorbell = Doorbell(settings)
        job_ids = [home.queue(steps=3, step_s=0.01) for _ in range(5)]
        for job_id in job_ids:
            doorbell.notify(job_id)
        most_at_once = 0
        while any(home.job(job_id).status is not JobStatus.SUCCEEDED for job_id in job_ids):
            most_at_once = max(most_at_once, len(worker.trainers()))
            time.sleep(0.1)

        assert most_at_once == 1
        assert [len(home.attempts(job_id)) for job_id in job_ids] == [1] * 5
        assert [len(home.adapters(job_id)) for job_id in job_ids] == [1] * 5


def test_the_worker_loads_no_model_library() -> None:
    program = "import sys, worker.celery.tasks, worker.celery.app; print([m for m in sys.modules if m in sys.argv[1:]])"
    libraries = ["torch", "transformers", "peft", "safetensors", "numpy"]
    done = subprocess.run(
        [sys.executable, "-c", program, *libraries], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
