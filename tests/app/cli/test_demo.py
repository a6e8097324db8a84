"""The demo's client side against a small HTTP server that answers as the API does."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from app.cli.client import Client
from app.cli.demo import PREPARING, HeldOut, Phases, exact_match, read_held_out, train, wait_while
from app.cli.progress import PlainProgress, describe, duration, training_display
from core.errors import StartRefused

METRICS = {"step": 3, "total_steps": 10, "train_loss": 1.25, "tokens_per_s": 1234.5, "mfu": 0.416, "eta_s": 75.4}


class FakeApi(BaseHTTPRequestHandler):
    """A job that is queued, running, then ends as ``end`` says, one poll each."""

    end: ClassVar[dict[str, Any]] = {}
    seen: ClassVar[list[tuple[str, str, Any]]] = []
    polls: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = self.headers["Content-Type"] == "application/json"
        type(self).seen.append((self.path, self.headers["Authorization"], json.loads(body) if is_json else body))
        if self.path == "/v1/completions":
            prompts = json.loads(body)["prompt"]
            choices = [{"index": i, "text": f"answer to {prompt}"} for i, prompt in enumerate(prompts)]
            self._answer(200, {"choices": choices[::-1]})
        elif self.path == "/v1/files":
            self._answer(200, {"id": f"file-{len(self.seen)}"})
        elif json.loads(body)["model"] == "unknown":
            self._answer(404, {"error": {"message": "no such model: unknown", "code": "model_not_found"}})
        else:
            self._answer(200, {"id": "ftjob-1"})

    def do_GET(self) -> None:
        if "/events" in self.path:
            evaluation = {"step": 4, "full_valid_loss": 1.5}
            events = [
                {"type": "message", "data": None},
                *({"type": "metrics", "data": d} for d in (evaluation, METRICS)),
            ]
            self._answer(200, {"data": events})
            return
        type(self).polls += 1
        states = [{"status": "queued"}, {"status": "running"}]
        self._answer(200, states[self.polls - 1] if self.polls <= len(states) else self.end)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def client() -> Iterator[Client]:
    FakeApi.seen, FakeApi.polls = [], 0
    FakeApi.end = {
        "status": "succeeded",
        "fine_tuned_model": "ft:tiny:local::1",
        "trained_on": "all of it",
        "error": None,
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeApi) as server:
        threading.Thread(target=server.serve_forever).start()
        with Client(f"http://127.0.0.1:{server.server_port}", "a-key") as client:
            yield client
        server.shutdown()


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    line = json.dumps({"prompt": "p", "completion": " c"}) + "\n"
    (tmp_path / "train.jsonl").write_text(line)
    (tmp_path / "heldout.jsonl").write_text(line)
    (tmp_path / "job.json").write_text(json.dumps({"hyperparameters": {"n_epochs": 2}}))
    return tmp_path


def test_a_job_is_posted_with_the_examples_own_settings(client: Client, examples: Path) -> None:
    screen = io.StringIO()
    phases = Phases()
    name = train(client, Console(file=screen), phases, "tiny", examples)
    assert name == "ft:tiny:local::1"
    assert FakeApi.seen[2] == (
        "/v1/fine_tuning/jobs",
        "Bearer a-key",
        {
            "model": "tiny",
            "hyperparameters": {"n_epochs": 2},
            "training_file": "file-1",
            "validation_file": "file-2",
        },
    )
    assert list(phases.seconds) == ["upload", "queue", "train"]
    assert "ft:tiny:local::1: all of it" in screen.getvalue()
    assert "training: step 3 of 10, loss 1.250, 1,234 tokens/s, 42% MFU, 1:15 min left" in screen.getvalue()


def test_a_failed_job_is_told_with_its_own_error(client: Client, examples: Path) -> None:
    FakeApi.end = {"status": "failed", "error": {"code": "loss_not_finite", "message": "the loss is not a number"}}
    with pytest.raises(StartRefused, match=r"ftjob-1 failed: the loss is not a number \(loss_not_finite\)"):
        train(client, Console(file=io.StringIO()), Phases(), "tiny", examples)


def test_a_refusal_carries_the_apis_sentence(client: Client) -> None:
    with pytest.raises(StartRefused, match="no such model: unknown"):
        client.create_job({"model": "unknown"})


def test_answers_come_in_the_order_of_their_prompts(client: Client) -> None:
    assert client.complete("tiny", ["a", "b", "c"], 4) == ["answer to a", "answer to b", "answer to c"]


def test_an_api_that_is_gone_is_named() -> None:
    with Client("http://127.0.0.1:9", None) as client, pytest.raises(StartRefused, match="does not answer"):
        client.job("ftjob-1")


def test_exact_match_ignores_white_space_around_only() -> None:
    questions = [HeldOut("", " a b"), HeldOut("", "c"), HeldOut("", "d"), HeldOut("", "e")]
    assert exact_match(questions, ["a b\n", "C", "d", "e e"]) == 0.5


def test_held_out_examples_must_have_prompt_and_completion(tmp_path: Path) -> None:
    path = tmp_path / "heldout.jsonl"
    for content in (None, "", '{"prompt": "p"}\n', "{"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(StartRefused, match="heldout"):
            read_held_out(path)


def test_lines_are_rare_but_the_last_step_is_always_told() -> None:
    screen = io.StringIO()
    with PlainProgress(Console(file=screen)) as display:
        for step in (1, 1, 2, 9, 10, 10):
            display.show({**METRICS, "step": step})
    assert [line.split(",")[0] for line in screen.getvalue().splitlines()] == [
        "training: step 1 of 10",
        "training: step 10 of 10",
    ]


def test_what_is_done_before_the_first_step_is_told_from_the_beginning() -> None:
    screen = io.StringIO()
    with PlainProgress(Console(file=screen)) as display:
        display.prepare("loading the base model")
        display.prepare("loading the base model")
    assert screen.getvalue().splitlines() == ["training: loading the base model, 0 s"]
    with training_display(Console(file=screen, force_terminal=True, width=120)) as display:
        display.prepare("reading the examples")
    assert "reading the examples, 0 s" in screen.getvalue()


def test_a_job_without_a_step_is_told_to_be_prepared(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "latest_metrics", lambda _: None)
    screen = io.StringIO()
    with PlainProgress(Console(file=screen, width=200)) as display:
        wait_while(client, "ftjob-1", set(), display)
    assert screen.getvalue().startswith(f"training: {PREPARING}, 0 s")


def test_the_bar_shows_the_same_facts() -> None:
    screen = io.StringIO()
    with training_display(Console(file=screen, force_terminal=True, width=120)) as display:
        display.show(METRICS)
    assert "3/10" in screen.getvalue()
    assert describe(METRICS) in screen.getvalue()


def test_durations_are_written_for_people() -> None:
    assert [duration(s) for s in (0, 59.4, 60, 187)] == ["0 s", "59 s", "1:00 min", "3:07 min"]


def test_a_loss_of_nothing_is_a_dash() -> None:
    assert describe(METRICS | {"train_loss": None}).startswith("loss –, 1,234 tokens/s")
