"""`loramill evaluate` and `loramill compare` against an API on a socket, with a scripted engine and a real worker."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.errors import AdapterInvalid
from tests.app.cli.command import Done, loramill
from tests.app.conftest import BASE, ApiHarness, serving
from tests.harness import fake_trainer
from tests.harness.models.published_model import publish
from tests.harness.stub_engine import LOGPROB, ServedStub
from worker.evaluating.runner import evaluations
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app as create_engine_app
from worker.jobs.duty import run_next
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag

TUNED = "ft:tiny:local::1"


@dataclass
class ServedDeployment:
    """A deployment on a socket, as the commands reach it."""

    harness: ApiHarness
    url: str
    engine_url: str
    engine: ServedStub

    def run(self, *arguments: str | Path) -> Done:
        return loramill(self.harness.settings.home, *arguments, "--url", self.url, columns=120)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have a worker take evaluations while the block lasts."""
        settings = self.harness.settings.model_copy(update={"engine_urls": {BASE: self.engine_url}})
        runtime = WorkerRuntime(settings, self.harness.database, self.harness.blobs, fake_trainer.COMMAND)
        stop = StopFlag()

        def work() -> None:
            while not stop.wait(0.05):
                run_next(runtime, stop, evaluations(settings))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.request()
            thread.join()


@pytest.fixture
def served(harness: ApiHarness) -> Iterator[ServedDeployment]:
    folder = harness.settings.base_models_folder
    Registry.load(folder).add(BaseModelEntry(name=BASE, source=Folder(path=folder / BASE), learning_rate=1e-3))
    engine = ServedStub()
    harness.engine = engine
    with harness.database.write() as session:
        publish(session, TUNED)
    # the API and the worker of this process would log to the command's output
    with capture_logs(), serving(create_engine_app(engine, EngineMetrics())) as engine_url:
        harness.settings = harness.settings.model_copy(update={"engine_urls": {BASE: engine_url}})
        with serving(harness.app()) as url:
            yield ServedDeployment(harness, url, engine_url, engine)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    answers = (" one two three", " no")
    lines = [{"prompt": f"question {n}", "completion": answers[n % 2]} for n in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


METRICS = ("--metric", "exact_match", "--metric", "nats_per_token")


class TestEvaluate:
    def test_prints_a_table_and_what_it_means(self, served: ServedDeployment, rows: Path) -> None:
        with served.working():
            done = served.run("evaluate", BASE, TUNED, rows, "--metric", "exact_match", "--metric", "token_accuracy")
        assert done.returncode == 0, done.stderr
        first, exact, accuracy, *_ = done.stdout.splitlines()
        assert first.split() == [BASE, TUNED]
        assert exact.split()[:2] == ["exact_match", "0.500"]
        assert accuracy.split()[:2] == ["token_accuracy", "0.000"]  # the engine holds another token the most likely
        assert "Too few rows for a verdict on exact_match: 4 that differ" in done.stdout
        assert "0 rows better, 0 worse, 4 alike" in done.stdout
        assert "evaluation eval-" in done.stderr

    def test_prints_json_alone_to_the_pipe(self, served: ServedDeployment, rows: Path) -> None:
        with served.working():
            done = served.run("evaluate", BASE, rows, *METRICS, "--json", "--max-rows", "3", "--max-tokens", "9")
        told = json.loads(done.stdout)
        assert (told["status"], told["rows"], told["sampling"]["max_tokens"]) == ("succeeded", 3, 9)

    @pytest.mark.parametrize(("gate", "code"), [("exact_match >= 0.9", 1), ("nats_per_token <= 0.6", 0)])
    def test_ends_as_its_gates_do(self, served: ServedDeployment, rows: Path, gate: str, code: int) -> None:
        with served.working():
            done = served.run("evaluate", BASE, rows, *METRICS, "--gate", gate)
        assert done.returncode == code
        assert f"{BASE}: {'Failed' if code else 'Passed'}: {gate}" in done.stdout

    def test_fails_with_the_evaluation(self, served: ServedDeployment, rows: Path) -> None:
        served.engine.fails_before = AdapterInvalid("e" * 64, "damaged")
        with served.working():
            done = served.run("evaluate", BASE, rows, *METRICS)
        assert done.returncode == 1
        assert "adapter eeeeeeeeeeee is refused: damaged" in done.stderr

    def test_cancels_at_an_interrupt(
        self, served: ServedDeployment, rows: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("app.cli.scores.evaluate.time.sleep", interrupt)
        done = served.run("evaluate", BASE, rows, *METRICS)
        assert done.returncode == 3
        with served.harness.database.read() as session:
            assert session.scalar(text("SELECT status FROM jobs WHERE kind = 'evaluation'")) == "cancelled"

    def test_says_what_the_api_refuses(self, served: ServedDeployment, rows: Path) -> None:
        done = served.run("evaluate", BASE, rows, "--metric", "exact")
        assert done.returncode == 1
        assert "there is no metric exact" in done.stderr

    @pytest.mark.parametrize("arguments", [(BASE, "no-such-file"), (), (BASE,)])
    def test_is_misused_without_models_and_a_file(self, served: ServedDeployment, arguments: tuple[str, ...]) -> None:
        assert served.run("evaluate", *arguments).returncode == 2


class TestCompare:
    def test_shows_answers_and_how_likely_the_reference_is(self, served: ServedDeployment) -> None:
        done = served.run("compare", BASE, TUNED, "--prompt", "question", "--reference", " no")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:3] == [
            BASE,
            '  "one two three"',
            "  reference: probability 0.135, 0.500 nats for each of 4 tokens",  # e to the -4 * 0.5
        ]
        told = _json(served.run("compare", BASE, "--prompt", "question", "--reference", " no", "--json"))
        assert told["models"][0]["nats"] == pytest.approx(-4 * LOGPROB)

    def test_feeds_the_ids_of_training(self, served: ServedDeployment) -> None:
        served.run("compare", BASE, "--prompt", "ab", "--reference", "c")
        assert [request.prompt for request in served.engine.requests] == [tuple(b"ab"), (*b"abc", 256)]

    def test_needs_no_reference(self, served: ServedDeployment) -> None:
        [told] = _json(served.run("compare", TUNED, "--prompt", "question", "--json"))["models"]
        assert told == {"model": TUNED, "answer": " one two three", "probability": None, "nats": None, "tokens": None}

    def test_names_a_model_that_there_is_not(self, served: ServedDeployment) -> None:
        done = served.run("compare", "other", "--prompt", "x")
        assert (done.returncode, "no such model: other" in done.stderr) == (1, True)


def _json(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
