"""An experiment goes on by what is recorded, whoever looks, and each step is taken once."""

import random
import threading
from typing import Any

import pytest

from core.errors import FileInUse
from core.experiments.plan import PlannedRun
from core.experiments.progress import next_step
from core.experiments.status import ExperimentStatus
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.store import adapters, files, jobs
from core.store.db import Database
from core.store.experiments import advancing
from core.store.experiments.advancing import advance, list_outcomes
from core.store.experiments.evaluating import read_scores
from tests.core.store.conftest import MakeFile
from tests.core.store.experiments.experimenting import (
    ROWS,
    create,
    digest_of,
    end_evaluation,
    end_runs,
    get,
    jobs_of,
    plan_on,
    step,
)


def test_its_jobs_are_ordinary_ones_that_tell_where_they_belong(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    made = jobs_of(database, record.id)
    assert [(job.job_metadata or {})["arm"] for job in made] == ["a", "b", "a", "b"]
    assert {(job.job_metadata or {})["experiment"] for job in made} == {record.id}
    assert [job.spec["seed"] for job in made] == [1, 1, 2, 2]
    assert {job.status for job in made} == {JobStatus.QUEUED}
    with database.read() as session:
        found, _ = jobs.list_page(session, after=None, limit=9, metadata={"experiment": record.id})
    assert {job.id for job in found} == {job.id for job in made}


def test_nothing_happens_before_the_last_run_has_ended(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    assert step(database, record.id).version == record.version
    assert end_runs(database) == 4
    judged = step(database, record.id)
    assert judged.judging_id is not None
    assert judged.judging_id.startswith("eval-")
    assert step(database, record.id).judging_id == judged.judging_id


def test_what_is_judged_is_what_every_run_made_and_the_base_model(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    made = [job.id for job in jobs_of(database, record.id)]
    end_runs(database)
    step(database, record.id)
    spec = end_evaluation(database)
    assert [model.name for model in spec.models] == [*(f"ft:{job_id}" for job_id in made), "tiny"]
    assert [model.adapter is None for model in spec.models] == [False] * 4 + [True]
    ended = step(database, record.id)
    assert (ended.status, ended.error, ended.finished_at) == (ExperimentStatus.SUCCEEDED, None, 400)


def test_its_scores_are_told_by_arm_and_seed(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database)
    evaluation_id = step(database, record.id).judging_id
    assert evaluation_id is not None
    end_evaluation(database, lambda model, row: float(row) + (model == "tiny"))
    with database.read() as session:
        table = read_scores(session, evaluation_id, list_outcomes(session, record.id))
    runs = [(arm, seed) for seed in (1, 2) for arm in (0, 1)]
    assert [model.run for model in table.models] == [*(PlannedRun(arm=a, seed=s) for a, s in runs), None]
    assert list(table.lines_N) == list(range(1, ROWS + 1))
    assert table.of_arm(1, 1.0, "nats_per_token").keys() == {1, 2}
    assert table.of_arm(None, 1.0, "nats_per_token")[0][:3] == [1.0, 2.0, 3.0]
    assert table.of_arm(None, 1.0, "exact_match")[0][:2] == [None, None]
    assert table.weights("nats_per_token") == [3.0] * ROWS


def test_runs_that_made_the_same_bytes_are_asked_once_and_score_the_same(
    database: Database, make_file: MakeFile
) -> None:
    record = create(database, plan_on(make_file()))  # of two arms that are wholly identical
    end_runs(database, parts=lambda job: (digest_of(job.spec_sha256),))
    evaluation_id = step(database, record.id).judging_id
    assert evaluation_id is not None
    first, _, second, _ = (f"ft:{job.id}" for job in jobs_of(database, record.id))
    drawn = random.Random(3)
    assert [model.name for model in end_evaluation(database, lambda *_: drawn.random()).models] == [
        first,
        second,
        "tiny",
    ]
    with database.read() as session:
        table = read_scores(session, evaluation_id, list_outcomes(session, record.id))
    for seed in (1, 2):
        one, other = (table.of_arm(arm, 1.0, "nats_per_token")[seed] for arm in (0, 1))
        assert one == other
    assert table.of_arm(0, 1.0, "nats_per_token")[1] != table.of_arm(0, 1.0, "nats_per_token")[2]


def test_adapters_of_which_no_files_are_known_are_not_held_to_be_the_same(
    database: Database, make_file: MakeFile
) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database, parts=lambda job: ())
    step(database, record.id)
    assert len(end_evaluation(database).models) == 5


def test_an_evaluation_that_failed_fails_it_with_its_own_words(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database)
    step(database, record.id)
    end_evaluation(database, error="the engine is away")
    ended = step(database, record.id)
    assert ended.status is ExperimentStatus.FAILED
    assert ended.error == "the evaluation that was to judge failed: the engine is away"


def test_a_model_that_was_deleted_before_it_was_judged_fails_it_and_is_named(
    database: Database, make_file: MakeFile
) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database)
    name = f"ft:{jobs_of(database, record.id)[2].id}"
    with database.write() as session:
        adapters.delete(session, name)
    ended = step(database, record.id)
    assert (ended.status, ended.judging_id) == (ExperimentStatus.FAILED, None)
    assert name in (ended.error or "")


def test_seeds_come_one_by_one_under_a_budget_and_what_is_left_out_is_told(
    database: Database, make_file: MakeFile
) -> None:
    record = create(database, plan_on(make_file(), budget_s=150))
    assert end_runs(database, seconds=50) == 2
    step(database, record.id)
    assert end_runs(database) == 0
    ended = get(database, record.id)
    assert ended.judging_id is not None
    assert ended.stopped is not None
    assert "after 1 of 2 seeds" in ended.stopped


def test_arms_that_are_far_from_the_best_are_not_trained_again(database: Database, make_file: MakeFile) -> None:
    file, other = make_file(), make_file()
    record = create(database, plan_on(file, prunes=True, choosing=plan_on(other).judging))
    first = jobs_of(database, record.id)
    assert end_runs(database) == 2
    assert step(database, record.id).choosing_id is not None
    worse = f"ft:{first[1].id}"
    chosen_by = end_evaluation(database, lambda model, row: row % 3 + 5.0 * (model == worse))
    assert chosen_by.file.id == other.id
    assert [model.name for model in chosen_by.models] == [f"ft:{job.id}" for job in first]
    pruned = step(database, record.id)
    assert pruned.pruned is not None
    assert [one["arm"] for one in pruned.pruned] == [1]
    step(database, record.id)
    assert [(job.job_metadata or {})["arm"] for job in jobs_of(database, record.id)] == ["a", "b", "a"]
    end_runs(database)
    assert step(database, record.id).judging_id not in (None, pruned.choosing_id)


def test_a_run_is_known_by_its_loss_on_what_it_did_not_train_on(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database, seconds=50)
    with database.read() as session:
        outcomes = list_outcomes(session, record.id)
    assert {(outcome.choosing_loss, outcome.seconds) for outcome in outcomes} == {(0.5, 50.0)}


def test_a_step_that_was_decided_by_what_is_no_more_is_not_taken(
    database: Database, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes the step between its decision and its transaction."""
    record = create(database, plan_on(make_file()))
    end_runs(database)
    decide = next_step

    def decide_late(*given: Any) -> Any:
        decided = decide(*given)
        monkeypatch.setattr(advancing, "next_step", decide)
        advance(database, record.id, 400)
        return decided

    monkeypatch.setattr(advancing, "next_step", decide_late)
    advance(database, record.id, 401)
    with database.read() as session:
        evaluations, _ = jobs.list_page(session, after=None, limit=9, kind=JobKind.EVALUATION)
    assert [job.created_at for job in evaluations] == [400]


@pytest.mark.parametrize("trial", range(3))
def test_of_many_who_look_at_once_one_takes_each_step(database: Database, make_file: MakeFile, trial: int) -> None:
    file = make_file()
    record = create(database, plan_on(file, prunes=True, choosing=plan_on(file).judging))
    for end in (end_runs, end_evaluation, end_runs, end_evaluation):
        end(database)
        for _ in range(3):
            lookers = [threading.Thread(target=advance, args=(database, record.id, 400)) for _ in range(4)]
            for looker in lookers:
                looker.start()
            for looker in lookers:
                looker.join()
    ended = get(database, record.id)
    assert ended.status is ExperimentStatus.SUCCEEDED
    assert len(jobs_of(database, record.id)) == 4
    with database.read() as session:
        evaluations, _ = jobs.list_page(session, after=None, limit=9, kind=JobKind.EVALUATION)
    assert {job.id for job in evaluations} == {ended.choosing_id, ended.judging_id}


def test_a_step_that_dies_before_its_commit_was_not_taken(
    database: Database, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever statement it dies at: afterwards the step is there to be taken, and is taken once."""

    class Died(BaseException):
        pass

    record = create(database, plan_on(make_file()))
    end_runs(database)
    whole = jobs.create
    random_ = random.Random(1)

    def killed(*given: object) -> None:
        if random_.random() < 0.5:
            whole(*given)  # type: ignore[arg-type]  # as it was called
        raise Died

    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "create", killed)
            with pytest.raises(Died):
                advance(database, record.id, 400)
        seen = get(database, record.id)
        assert (seen.version, seen.judging_id) == (record.version, None)
    step(database, record.id)
    with database.read() as session:
        evaluations, _ = jobs.list_page(session, after=None, limit=9, kind=JobKind.EVALUATION)
    assert len(evaluations) == 1


def test_its_files_stay_until_it_has_ended(database: Database, make_file: MakeFile) -> None:
    file = make_file()
    record = create(database, plan_on(file))
    end_runs(database)  # no job needs the file now
    with pytest.raises(FileInUse, match=f"is used by experiment {record.id}"), database.write() as session:
        files.delete(session, file.id)
    step(database, record.id)
    end_evaluation(database)
    step(database, record.id)
    with database.write() as session:
        files.delete(session, file.id)


def test_a_plan_that_is_not_understood_is_left_to_others(database: Database, make_file: MakeFile) -> None:
    record = create(database, plan_on(make_file()))
    end_runs(database)
    with database.write() as session:
        session.merge(record).plan = record.plan | {"of_a_newer_version": True}
    assert step(database, record.id).status is ExperimentStatus.RUNNING
