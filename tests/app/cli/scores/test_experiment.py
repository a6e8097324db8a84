"""`loramill experiment` against an API on a socket, whose jobs a thread ends."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.cli.client import Client
from app.cli.scores import experiment
from app.cli.scores.experiment import ExperimentOptions, body_of, read_fields, run_experiment
from core.errors import InvalidInput, StartRefused
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus
from core.settings import Settings
from core.store import jobs
from core.store.db import Database
from core.store.experiments.advancing import advance
from core.store.experiments.records import list_running
from tests.app.conftest import BASE, ApiHarness, serving
from tests.app.experiments.conftest import rows
from tests.core.store.experiments.experimenting import end_evaluation, end_runs

OPTIONS: dict[str, Any] = {
    "model": BASE,
    "weights": (0.0, 1.0),
    "seeds": 2,
    "judge": None,
    "metric": None,
    "margin": None,
    "tune": False,
    "prune": False,
    "budget_s": None,
    "fields": {},
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})


@pytest.fixture
def options(tmp_path: Path) -> ExperimentOptions:
    file, judge = tmp_path / "rows.jsonl", tmp_path / "judge.jsonl"
    file.write_bytes(rows(0, 100))
    judge.write_bytes(rows(500, 620))
    return ExperimentOptions(file=file, **OPTIONS | {"judge": judge})


@contextmanager
def worked_off(database: Database, *, error: str | None = None) -> Iterator[None]:
    """End what is queued, as workers would, until the block is left."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            with database.read() as session:
                running = list_running(session)
            for experiment_id in running:
                if not end_runs(database) and _is_to_judge(database):
                    end_evaluation(database, lambda model, row: row % 5 + (model == BASE), error=error)
                advance(database, experiment_id, 400)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_to_judge(database: Database) -> bool:
    with database.read() as session:
        found, _ = jobs.list_page(session, after=None, limit=9, kind=JobKind.EVALUATION)
    return any(job.status is JobStatus.QUEUED for job in found)


@contextmanager
def at(harness: ApiHarness) -> Iterator[Client]:
    """Give a client of the API under test."""
    with serving(harness.app()) as url, Client(url, None) as client:
        yield client


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "POLL_S", 0.05)


def test_it_waits_and_shows_the_verdict_and_a_table(
    harness: ApiHarness, options: ExperimentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    with at(harness) as client, worked_off(harness.database):
        run_experiment(client, options, dry_run=False, as_json=False)
    shown = capsys.readouterr()
    assert "base is worse than w = 0 on nats_per_token" in shown.out
    assert "nats_per_token  w = 0 " in shown.out
    assert "experiment exp-" in shown.err
    assert "4 runs on 100 rows take" in shown.err
    assert "A true difference on nats_per_token shows four times in five" in shown.err


def test_as_json_it_prints_the_report_alone(
    harness: ApiHarness, options: ExperimentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    with at(harness) as client, worked_off(harness.database):
        run_experiment(client, options, dry_run=False, as_json=True)
    shown = capsys.readouterr().out  # among what the API of this process logs
    report, _ = json.JSONDecoder().raw_decode(shown, shown.index("{\n"))
    assert report["object"] == "experiment.report"
    assert report["rerun"]["weights"] == [0, 1]


def test_dry_it_only_says_what_it_would_take(
    harness: ApiHarness, options: ExperimentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    with at(harness) as client:
        run_experiment(client, options, dry_run=True, as_json=False)
        assert "w = 0, w = 1: 4 runs on 100 rows" in capsys.readouterr().out
    with harness.database.read() as session:
        assert list(list_running(session)) == []


def test_one_that_came_to_nothing_says_why(harness: ApiHarness, options: ExperimentOptions) -> None:
    with (
        at(harness) as client,
        worked_off(harness.database, error="the engine is away"),
        pytest.raises(StartRefused, match="failed: the evaluation that was to judge failed: the engine is away"),
    ):
        run_experiment(client, options, dry_run=False, as_json=False)


def test_what_is_refused_is_said_in_the_apis_words(harness: ApiHarness, options: ExperimentOptions) -> None:
    same = ExperimentOptions(**vars(options) | {"judge": options.file})
    with at(harness) as client, pytest.raises(StartRefused, match="its lines 1 "):
        run_experiment(client, same, dry_run=False, as_json=False)


def test_options_become_the_request(options: ExperimentOptions) -> None:
    asked = vars(options) | {"metric": "chrf", "margin": 0.1, "tune": True, "prune": True, "budget_s": 60}
    fields = read_fields(["lora.rank=8", "lora.alpha=4.5", "lr_scheduler_type=cosine"])
    body = body_of(ExperimentOptions(**asked | {"fields": fields}), upload=lambda path: f"file-{path.stem}")
    assert body == {
        "job": {
            "model": BASE,
            "training_file": "file-rows",
            "lora": {"rank": 8, "alpha": 4.5},
            "lr_scheduler_type": "cosine",
        },
        "question": "labels",
        "weights": [0.0, 1.0],
        "seeds": 2,
        "judge": "file-judge",
        "primary_metric": "chrf",
        "margin": 0.1,
        "tune": "learning_rate",
        "prune": True,
        "budget_s": 60,
    }


def test_a_field_that_is_given_whole_and_in_part_is_refused_before_anything_is_uploaded(
    options: ExperimentOptions,
) -> None:
    for pairs in (["lora=null", "lora.rank=8"], ["lora.rank=8", "lora=null"]):
        asked = ExperimentOptions(**vars(options) | {"fields": read_fields(pairs)})
        with pytest.raises(InvalidInput, match="is given as a whole, too"):
            body_of(asked, upload=lambda path: pytest.fail(f"{path} was uploaded"))


def test_a_field_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidInput, match="write it as field=value"):
        read_fields(["lora.rank"])
