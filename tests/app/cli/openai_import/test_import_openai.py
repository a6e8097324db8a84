"""`loramill import-openai`: an account by the real openai client, or exports, to a job, a model and an evaluation."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from core.base_models.registry import BaseModelEntry, Folder, Registry
from tests.app.cli.command import Done, loramill
from tests.app.conftest import BASE, ApiHarness, serving
from tests.harness import fake_trainer, stub_engine
from tests.harness.servers.fake_openai import JOB, FakeOpenAI
from tests.harness.stub_engine import ServedStub
from worker.evaluating.runner import evaluations
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app as create_engine_app
from worker.jobs.duty import run_next
from worker.jobs.host_gate import HostGate
from worker.jobs.runner import trainings
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag

KEY = "sk-correct-horse-battery"
ROWS = "".join(json.dumps({"prompt": f"question {n}", "completion": " one two"}) + "\n" for n in range(12)).encode()
TOOLS = json.dumps({"messages": [{"role": "user", "content": "q"}], "tools": [{"type": "function"}]}).encode()


class Importing:
    """A deployment with a worker that trains by a fake, and an account to import from."""

    def __init__(self, harness: ApiHarness, url: str, account: FakeOpenAI, account_url: str) -> None:
        self.harness, self.url = harness, url
        self.account, self.account_url = account, account_url

    def run(self, *arguments: str | Path) -> Done:
        done = loramill(self.harness.settings.home, "import-openai", *arguments, "--url", self.url, columns=120)
        assert KEY not in done.stdout + done.stderr
        return done

    def from_account(self, *arguments: str | Path) -> Done:
        return self.run("ftjob-theirs", "--base-url", f"{self.account_url}/v1", *arguments)

    def get(self, path: str) -> dict[str, Any]:
        return dict(httpx2.get(f"{self.url}{path}").json())

    @contextmanager
    def working(self) -> Iterator[None]:
        settings = self.harness.settings
        runtime = WorkerRuntime(settings, self.harness.database, self.harness.blobs, fake_trainer.COMMAND)
        stop, duties = StopFlag(), (trainings(HostGate(runtime)), evaluations(settings))

        def work() -> None:
            while not stop.wait(0.05):
                for duty in duties:
                    run_next(runtime, stop, duty)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.request()
            thread.join()


@pytest.fixture
def importing(harness: ApiHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Importing]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("app.cli.jobs.waiting.POLL_S", 0.05)
    monkeypatch.setattr(stub_engine, "CONTEXT_TOKENS", 4096)  # the base model's, in which questions of memory fit
    folder = harness.settings.base_models_folder
    Registry.load(folder).add(BaseModelEntry(name=BASE, source=Folder(path=folder / BASE), learning_rate=1e-3))
    harness.engine = engine = ServedStub()
    account = FakeOpenAI(KEY, files={"file-train": ROWS})
    with (
        capture_logs(),
        serving(create_engine_app(engine, EngineMetrics())) as engine_url,
        serving(account.app()) as account_url,
    ):
        harness.settings = harness.settings.model_copy(update={"engine_urls": {BASE: engine_url}})
        with serving(harness.app()) as url:
            yield Importing(harness, url, account, account_url)


def export(folder: Path, job: dict[str, Any] = JOB, rows: bytes = ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "file-train.jsonl").write_bytes(rows)
    (folder / "file-train.json").write_text(json.dumps({"object": "file", "id": "file-train"}))
    return folder


def test_a_dry_run_shows_the_plan_and_makes_nothing(importing: Importing) -> None:
    done = importing.from_account("--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"  model {BASE}\n  training_file of 12 rows, prompts and completions\n  n_epochs 4\n" in done.stdout
    assert "learning_rate_multiplier: auto" in done.stdout
    assert importing.get("/v1/files")["data"] == []


def test_without_run_the_files_are_uploaded_and_the_request_is_shown(importing: Importing) -> None:
    done = importing.from_account()
    assert done.returncode == 0, done.stderr
    [file] = importing.get("/v1/files")["data"]
    request = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert (request["training_file"], request["suffix"]) == (file["id"], "desk")
    assert file["status"] == "processed"
    assert importing.get("/v1/fine_tuning/jobs")["data"] == []


def test_run_makes_the_job_waits_for_it_and_evaluates_against_stored_answers(
    importing: Importing, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"prompt": f"new {n}", "answer": " one two"}) + "\n" for n in range(4)))
    with importing.working():
        done = importing.from_account("--run", "--answers", answers)
    assert done.returncode == 0, done.stderr
    [job] = importing.get("/v1/fine_tuning/jobs")["data"]
    assert (job["status"], job["seed"], job["metadata"]) == ("succeeded", JOB["seed"], {"openai_job": "ftjob-theirs"})
    assert (job["hyperparameters"]["n_epochs"], job["hyperparameters"]["batch_size"]) == (4, 1)
    assert f"{job['fine_tuned_model']} can be asked" in done.stdout
    [evaluation] = importing.get("/v1/evaluations")["data"]
    assert (evaluation["models"], evaluation["rows"]) == ([BASE, job["fine_tuned_model"]], 4)
    assert "exact_match" in done.stdout


def test_exports_in_a_folder_need_no_account(
    importing: Importing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    done = importing.run("--from", export(tmp_path / "exports"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "ftjob-theirs of OpenAI's, here:" in done.stdout
    missing = importing.run("ftjob-other", "--from", tmp_path / "exports")
    assert "has no job ftjob-other" in missing.stderr


def test_rows_that_cannot_be_trained_on_leave_nothing_behind(importing: Importing) -> None:
    importing.account.files["file-train"] = ROWS + TOOLS
    done = importing.from_account("--run")
    assert done.returncode == 1
    assert "file-train cannot be trained on here: line 13: tools: tools cannot be learnt here" in done.stderr
    assert importing.get("/v1/files")["data"] == []


def test_stored_answers_are_read_before_anything_is_uploaded(importing: Importing, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    for line, reason in (
        ('{"prompt": "p"}', "stored answers, line 1: expected an object with prompt and answer"),
        ('{"prompt": [{"role": "user", "content": "p"}], "answer": "a"}', "line 1: prompt must be a text"),
        ('{"prompt": "p", "answer": ""}', '"completion" is empty'),
    ):
        answers.write_text(line)
        done = importing.from_account("--run", "--answers", answers)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr
    assert importing.get("/v1/files")["data"] == []


def test_what_the_account_refuses_is_told_without_the_key(
    importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        "No such object: ftjob-none" in importing.run("ftjob-none", "--base-url", f"{importing.account_url}/v1").stderr
    )
    importing.account.key = "another"
    refused = importing.from_account()
    assert (refused.returncode, "Incorrect API key provided: …" in refused.stderr) == (1, True)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "cannot be read from the account: Missing credentials" in importing.from_account().stderr


def test_options_that_contradict_each_other_are_refused(importing: Importing, tmp_path: Path) -> None:
    folder, answers = export(tmp_path / "exports"), tmp_path / "answers.jsonl"
    answers.write_text("")
    for arguments in (["--base-url", "http://127.0.0.1:1"], ["--from", folder, "--base-url", "x"]):
        assert importing.run(*arguments).returncode == 2
    assert importing.run("--from", folder, "--answers", answers).returncode == 2
