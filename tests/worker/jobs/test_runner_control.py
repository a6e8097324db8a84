"""Running jobs that a stopping worker releases, or that a person cancels, pauses and resumes."""

import threading

import pytest

from core.jobs.events import EventType
from core.jobs.status import JobStatus
from tests.worker.conftest import Home
from tests.worker.jobs.running import in_background, pause_in_the_middle, run, wait_for
from worker.trainer_process.process import TrainerProcess
from worker.trainer_process.stop import StopFlag


class TestStop:
    def test_releases_the_job_with_its_last_step_and_counts_no_attempt(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.05)
        stop = StopFlag()
        thread = in_background(home, stop=stop)
        wait_for(lambda: any(event.type is EventType.METRICS for event in home.events(job_id)))
        stop.request()
        thread.join()

        job = home.job(job_id)
        assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
        [attempt] = home.attempts(job_id)
        assert attempt.outcome == "released"
        [checkpoint] = home.checkpoints(job_id)[-1:]
        assert checkpoint.step == attempt.last_step

    def test_kills_a_trainer_that_does_not_listen(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.05, deaf=True)
        settings = home.settings.model_copy(update={"stop_grace_s": 0.3})
        stop = StopFlag()
        thread = in_background(home, settings, stop)
        wait_for(lambda: bool(home.events(job_id)))
        stop.request()
        thread.join()

        assert home.job(job_id).status is JobStatus.QUEUED
        assert home.attempts(job_id)[0].exit_signal == 9


class TestCancel:
    def test_of_a_queued_job_means_it_never_runs(self, home: Home) -> None:
        job_id = home.queue()
        home.cancel(job_id)

        assert not run(home)
        assert home.job(job_id).status is JobStatus.CANCELLED

    @pytest.mark.parametrize("deaf", [False, True])
    def test_of_a_running_job_ends_its_trainer(self, home: Home, deaf: bool) -> None:
        job_id = home.queue(steps=1000, step_s=0.05, deaf=deaf)
        settings = home.settings.model_copy(update={"stop_grace_s": 0.3 if deaf else 5})
        thread = in_background(home, settings)
        wait_for(lambda: bool(home.events(job_id)))
        home.cancel(job_id)
        thread.join()

        assert home.job(job_id).status is JobStatus.CANCELLED
        assert home.attempts(job_id)[0].outcome == "cancelled"
        assert home.adapters(job_id) == []
        assert [event.message for event in home.events(job_id)].count("The job was cancelled") == 1


class TestPause:
    def test_of_a_queued_job_means_it_does_not_run_until_resumed(self, home: Home) -> None:
        job_id = home.queue()
        home.pause(job_id)

        assert not run(home)
        assert home.job(job_id).status is JobStatus.PAUSED

        home.resume(job_id)
        assert run(home)
        assert home.job(job_id).status is JobStatus.SUCCEEDED

    def test_of_a_running_job_keeps_its_last_step_and_goes_on_from_there(self, home: Home) -> None:
        job_id = home.queue(steps=60, step_s=0.06, checkpoint_every=1000)
        pause_in_the_middle(home, job_id)

        job = home.job(job_id)
        assert (job.status, job.owner, job.attempts, job.finished_at) == (JobStatus.PAUSED, None, 0, None)
        [checkpoint] = home.checkpoints(job_id)
        [first] = home.attempts(job_id)
        assert (first.outcome, first.last_step, first.exit_signal) == ("paused", checkpoint.step, None)
        told = home.events(job_id)[-1]
        assert told.message == f"The job was paused; its newest checkpoint is of step {checkpoint.step}"
        assert told.data == {"step": checkpoint.step}

        assert not run(home)
        home.resume(job_id)
        assert run(home)

        assert home.job(job_id).status is JobStatus.SUCCEEDED
        second = home.attempts(job_id)[1]
        assert (second.outcome, second.resumed_from_step) == ("succeeded", checkpoint.step)
        steps = [event.data["step"] for event in home.events(job_id) if event.type == "metrics" and event.data]
        assert steps == list(range(1, 61))

    def test_counts_no_attempt_however_often(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.02)
        settings = home.settings.model_copy(update={"max_attempts": 1})
        for _ in range(3):
            pause_in_the_middle(home, job_id, settings)
            assert (home.job(job_id).status, home.job(job_id).attempts) == (JobStatus.PAUSED, 0)
            home.resume(job_id)

        assert [attempt.outcome for attempt in home.attempts(job_id)] == ["paused"] * 3

    def test_kills_a_trainer_that_does_not_listen(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.05, deaf=True)
        pause_in_the_middle(home, job_id, home.settings.model_copy(update={"stop_grace_s": 0.3}))

        assert (home.job(job_id).status, home.job(job_id).attempts) == (JobStatus.PAUSED, 0)
        assert home.attempts(job_id)[0].exit_signal == 9

    def test_that_comes_too_late_changes_nothing(self, home: Home) -> None:
        job_id = home.queue(steps=10, step_s=0.05, deaf=True)
        pause_in_the_middle(home, job_id)

        assert home.job(job_id).status is JobStatus.SUCCEEDED

    def test_that_is_withdrawn_while_the_trainer_stops_lets_the_job_go_on(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, ask_to_stop = threading.Event(), TrainerProcess.ask_to_stop

        def ask_and_tell(trainer: TrainerProcess) -> None:
            ask_to_stop(trainer)
            asked.set()

        monkeypatch.setattr(TrainerProcess, "ask_to_stop", ask_and_tell)
        job_id = home.queue(steps=1000, step_s=0.05, deaf=True)
        settings = home.settings.model_copy(update={"stop_grace_s": 3})
        thread = in_background(home, settings)
        wait_for(lambda: bool(home.events(job_id)))
        home.pause(job_id)
        wait_for(asked.is_set)
        home.resume(job_id)
        thread.join()

        assert (home.job(job_id).status, home.job(job_id).attempts) == (JobStatus.QUEUED, 0)
        assert home.events(job_id)[-1].message == "The pause was withdrawn; the job waits for its next turn"

    def test_gives_way_to_a_cancellation(self, home: Home) -> None:
        job_id = home.queue(steps=1000, step_s=0.05)
        pause_in_the_middle(home, job_id)
        home.cancel(job_id)

        assert not run(home)
        assert home.job(job_id).status is JobStatus.CANCELLED
