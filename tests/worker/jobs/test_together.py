"""Jobs that wait together are trained by one trainer, and each has its own life all the same."""

from collections.abc import Sequence
from typing import Any

import psutil
import pytest

from core.estimates.estimate import Basis, Estimate, EstimatedMachine, QueuePlace
from core.estimates.memory_plan import Memory
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store.tables import JobRecord
from tests.worker.conftest import Home, make_spec
from tests.worker.jobs.running import in_background, metrics_of, run, run_on, wait_for
from worker.trainer_process.process import LAUNCHER
from worker.trainer_process.stop import StopFlag

GIB = 2**30
ADAPTER_BYTES, PEAK_BYTES = GIB // 4, GIB
STEPS, STEP_S = 36, 0.1  # so long that what is asked of a job comes before its end, on a busy machine too


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"train_together": 3})


def estimate(peak_bytes: int = PEAK_BYTES) -> Estimate:
    memory = Memory(
        dtype="float32",
        runtime_bytes=0,
        base_weights_bytes=0,
        adapter_bytes=ADAPTER_BYTES,
        activations_bytes=0,
        logits_bytes=0,
        workspace_bytes=0,
        peak_bytes=peak_bytes,
        least_bytes=0,
        token_budget=64,
        activation_bytes_per_token=1,
        checkpointed_blocks=0,
    )
    return Estimate(
        examples=1,
        held_out_examples=0,
        dropped_examples=0,
        untrained_examples=0,
        seen_tokens=1,
        trained_tokens=1,
        evaluated_tokens=0,
        steps=1,
        sampled=False,
        read_examples=1,
        seconds=None,
        peak_memory_bytes=peak_bytes,
        token_budget=64,
        memory=memory,
        fits=True,
        machine=EstimatedMachine(device="cpu", memory_bytes=None, available_bytes=None, source="this host"),
        basis=Basis(kind="unknown", jobs=(), flops_per_s=None, explanation=""),
        queue=QueuePlace(place=1, seconds_ahead=None),
        problems=(),
    )


def queue_some(home: Home, count: int, **behaviour: Any) -> list[str]:
    """Queue jobs of one file, whose seeds are 0, 1, 2, …"""
    ref = home.upload(**behaviour)
    return [home.queue_spec(make_spec(ref).model_copy(update={"seed": seed}), estimate()) for seed in range(count)]


def statuses(home: Home, job_ids: Sequence[str]) -> list[JobStatus]:
    return [home.job(job_id).status for job_id in job_ids]


def logs_of(home: Home, job_ids: Sequence[str]) -> set[int]:
    """Give the files that the jobs' logs are."""
    names = [home.settings.runs_folder / job_id / "a1" / "trainer.log" for job_id in job_ids]
    return {name.stat().st_ino for name in names}


def test_those_that_wait_are_trained_by_one_trainer_as_many_as_may_be(home: Home) -> None:
    job_ids = queue_some(home, 5)
    assert run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED] * 3 + [JobStatus.QUEUED] * 2
    assert run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED] * 5
    assert not run(home)
    for job_id in job_ids:
        assert len(home.adapters(job_id)) == 1
        assert [attempt.outcome for attempt in home.attempts(job_id)] == ["succeeded"]
        assert [event.data["step"] for event in metrics_of(home, job_id)] == [1, 2, 3, 4]  # type: ignore[index]


def test_by_default_each_is_trained_by_itself(home: Home) -> None:
    job_ids = queue_some(home, 2)
    assert run(home, home.settings.model_copy(update={"train_together": 1}))
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED, JobStatus.QUEUED]


def test_a_rerun_is_trained_by_itself(home: Home) -> None:
    ref = home.upload(steps=4)
    spec = make_spec(ref)
    first = home.queue_spec(spec, estimate())
    run(home)
    job_ids = [home.queue_spec(spec, estimate(), rerun_of=rerun_of) for rerun_of in (None, first, None)]
    assert run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED, JobStatus.QUEUED, JobStatus.SUCCEEDED]
    later = home.queue_spec(spec, estimate())
    assert run(home)
    assert statuses(home, [job_ids[1], later]) == [JobStatus.SUCCEEDED, JobStatus.QUEUED]


def test_on_several_gpus_each_is_trained_by_itself(home: Home) -> None:
    job_ids = queue_some(home, 2)
    run_on(home.runtime(trainer_command=(*LAUNCHER, "--ranks", "2", "--no-such-option")))
    assert len([attempt for job_id in job_ids for attempt in home.attempts(job_id)]) == 1


def differing(home: Home) -> dict[str, JobRecord]:
    """Queue a job, and beside it one that differs in each thing that a trainer shares."""
    ref, other = home.upload(steps=4), home.upload(steps=5)
    spec = make_spec(ref)
    quantized = spec.model_copy(update={"quantization": "nf4"})
    scored = spec.model_copy(update={"validation_file": other})
    made = {"first": spec, "another file": make_spec(other), "4 bits": quantized, "a validation file": scored}
    return {name: home.job(home.queue_spec(one, estimate())) for name, one in made.items()}


def test_those_that_share_too_little_wait_their_turn(home: Home) -> None:
    made = differing(home)
    run(home)
    assert {name: home.job(job.id).status for name, job in made.items()} == {
        "first": JobStatus.SUCCEEDED,
        "another file": JobStatus.QUEUED,
        "4 bits": JobStatus.QUEUED,
        "a validation file": JobStatus.QUEUED,
    }


@pytest.mark.parametrize(
    ("available_bytes", "fitting"), [(PEAK_BYTES, 1), (PEAK_BYTES + ADAPTER_BYTES, 2), (8 * GIB, 3)]
)
def test_no_more_are_taken_than_memory_holds(
    home: Home, monkeypatch: pytest.MonkeyPatch, available_bytes: int, fitting: int
) -> None:
    job_ids = queue_some(home, 3)
    there = psutil.virtual_memory()._replace(available=available_bytes)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED] * fitting + [JobStatus.QUEUED] * (3 - fitting)


def test_one_without_an_estimate_is_trained_by_itself(home: Home) -> None:
    ref = home.upload()
    job_ids = [home.queue_spec(make_spec(ref), known) for known in (estimate(), None)]
    run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED, JobStatus.QUEUED]


def test_one_that_is_cancelled_leaves_the_others_to_go_on(home: Home) -> None:
    job_ids = queue_some(home, 3, steps=STEPS, step_s=STEP_S)
    thread = in_background(home)
    wait_for(lambda: all(metrics_of(home, job_id) for job_id in job_ids))
    home.cancel(job_ids[1])
    thread.join()
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.SUCCEEDED]
    assert home.adapters(job_ids[1]) == []
    assert len(metrics_of(home, job_ids[0])) == STEPS


def test_one_that_is_paused_goes_on_later_by_itself(home: Home) -> None:
    job_ids = queue_some(home, 2, steps=STEPS, step_s=STEP_S)
    thread = in_background(home)
    wait_for(lambda: all(metrics_of(home, job_id) for job_id in job_ids))
    home.pause(job_ids[0])
    thread.join()
    assert statuses(home, job_ids) == [JobStatus.PAUSED, JobStatus.SUCCEEDED]
    home.resume(job_ids[0])
    assert run(home)
    assert home.job(job_ids[0]).status is JobStatus.SUCCEEDED
    steps = [event.data["step"] for event in metrics_of(home, job_ids[0])]  # type: ignore[index]
    assert steps == list(range(1, STEPS + 1))


def test_one_that_fails_leaves_the_others_to_go_on(home: Home) -> None:
    job_ids = queue_some(home, 3, by_seed={1: {"end": "fail"}})
    run(home)
    assert statuses(home, job_ids) == [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUCCEEDED]
    assert home.job(job_ids[1]).error_code == "no_trained_tokens"


def test_a_dead_trainer_counts_one_attempt_for_each_and_then_each_is_by_itself(home: Home) -> None:
    job_ids = queue_some(home, 3, steps=8, by_seed={1: {"end": "sigkill", "end_at_step": 4, "end_until_token": 1}})
    run(home)
    assert statuses(home, job_ids) == [JobStatus.QUEUED] * 3
    assert [home.job(job_id).attempts for job_id in job_ids] == [1, 1, 1]
    assert [home.attempts(job_id)[0].outcome for job_id in job_ids] == ["trainer died"] * 3
    for n in range(1, 4):
        assert run(home)
        assert statuses(home, job_ids).count(JobStatus.SUCCEEDED) == n


def test_a_stopping_worker_gives_all_of_them_back_uncounted(home: Home) -> None:
    job_ids = queue_some(home, 2, steps=1000, step_s=0.03)
    stop = StopFlag()
    thread = in_background(home, stop=stop)
    wait_for(lambda: all(metrics_of(home, job_id) for job_id in job_ids))
    stop.request()
    thread.join()
    assert statuses(home, job_ids) == [JobStatus.QUEUED] * 2
    for job_id in job_ids:
        assert home.job(job_id).attempts == 0
        assert home.checkpoints(job_id)[-1].step == home.attempts(job_id)[0].last_step


def test_one_that_does_not_listen_is_given_up_without_the_others(home: Home) -> None:
    job_ids = queue_some(home, 2, steps=60, step_s=0.03, by_seed={0: {"deaf": True, "steps": 400}})
    thread = in_background(home, home.settings.model_copy(update={"stop_grace_s": 0.3}))
    wait_for(lambda: all(metrics_of(home, job_id) for job_id in job_ids))
    home.cancel(job_ids[0])
    thread.join()
    assert statuses(home, job_ids) == [JobStatus.CANCELLED, JobStatus.SUCCEEDED]


def test_one_whose_folder_cannot_be_filled_goes_back_and_the_others_are_trained(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = queue_some(home, 2)
    (home.settings.runs_folder / job_ids[0]).parent.mkdir(parents=True, exist_ok=True)
    (home.settings.runs_folder / job_ids[0]).write_text("a file stands where the folder belongs")
    run(home)
    assert statuses(home, job_ids) == [JobStatus.QUEUED, JobStatus.SUCCEEDED]
    assert home.job(job_ids[0]).attempts == 0


def test_a_trainer_that_does_not_start_is_the_hosts_fault_for_each(home: Home) -> None:
    job_ids = queue_some(home, 2)
    run_on(home.runtime(trainer_command=("/no/such/program",)))
    assert [home.attempts(job_id)[0].outcome for job_id in job_ids] == ["unfit"] * 2
    assert statuses(home, job_ids) == [JobStatus.QUEUED] * 2


def test_each_has_the_trainers_log(home: Home) -> None:
    job_ids = queue_some(home, 2, says="hello")
    run(home)
    assert len(logs_of(home, job_ids)) == 1
    log = home.settings.runs_folder / job_ids[1] / "a1" / "trainer.log"
    assert log.read_text().split() == ["hello", "hello"]
