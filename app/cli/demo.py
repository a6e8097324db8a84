"""`loramill demo`: the main job from start to end on the example data, timed and measured.

Starts the embedded stack as a child and is from then on a client like any other.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from app.cli.client import Client
from app.cli.columns import align
from app.cli.progress import TrainingDisplay, training_display, waiting
from app.cli.stack.address import openable_url
from app.cli.stack.preparation import refuse_contradictions, refuse_taken_port
from app.cli.stack.supervisor import start_bound
from core.errors import StartRefused
from core.jobs.status import TERMINAL, JobStatus
from core.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAINING, HELD_OUT, JOB = "train.jsonl", "heldout.jsonl", "job.json"
MOST_HELD_OUT = 50
SHOWN = 5
MAX_TOKENS = 40  # a record has fewer than 30
POLL_S = 0.5
PREPARING = "loading the base model, scoring held-out examples"
LINES_OF_FAILURE = 20


@dataclass(frozen=True)
class HeldOut:
    """A question that is not trained on, and the answer expected."""

    prompt: str
    expected: str


class Phases:
    """How long each phase took, in the order they came."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block; a phase that comes again adds up."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def run_demo(settings: Settings, examples: Path | None) -> None:
    """Start the stack, train, compare answers before and after, stop the stack.

    Raises:
        StartRefused: the stack did not start, the API refused a request, or the job failed.
    """
    folder = examples or EXAMPLES
    questions = read_held_out(folder / HELD_OUT)[:MOST_HELD_OUT]
    refuse_contradictions(settings)
    refuse_taken_port(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends everything as Ctrl-C does
    console, phases = Console(), Phases()
    with contextlib.ExitStack() as stack:
        with phases.phase("start"), waiting(console, f"starting the stack in {settings.home.absolute()}"):
            stack.enter_context(running_stack(settings))
        key = settings.api_key.get_secret_value() if settings.api_key else None
        client = stack.enter_context(Client(openable_url(settings), key))
        base_model = settings.base_models[0]
        adapter = train(client, console, phases, base_model, folder)
        prompts = [question.prompt for question in questions]
        with phases.phase("answer"):
            with waiting(console, f"asking {base_model} {len(prompts)} questions"):
                before = client.complete(base_model, prompts, MAX_TOKENS)
            with waiting(console, f"asking {adapter} the same"):
                after = client.complete(adapter, prompts, MAX_TOKENS)
        with phases.phase("stop"), waiting(console, "stopping the stack"):
            stack.close()
    print_answers(questions, before, after)
    print("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.seconds.items()))
    print(
        f"exact match: base {exact_match(questions, before):.2f}, adapter {exact_match(questions, after):.2f} "
        f"({len(questions)} held-out examples)"
    )


def train(client: Client, console: Console, phases: Phases, base_model: str, folder: Path) -> str:
    """Upload the data, run a job to its end, and give the fine-tuned model's name.

    Raises:
        StartRefused: the job did not succeed; with its own error.
    """
    with phases.phase("upload"):
        body = {
            **read_job(folder / JOB),
            "model": base_model,
            "training_file": client.upload(folder / TRAINING),
            "validation_file": client.upload(folder / HELD_OUT),
        }
    job_id = client.create_job(body)
    console.print(f"job {job_id} on {base_model}", highlight=False)
    try:
        with phases.phase("queue"), waiting(console, "waiting for a worker"):
            wait_while(client, job_id, {JobStatus.QUEUED})
        with phases.phase("train"), training_display(console) as display:
            job = wait_while(client, job_id, set(JobStatus) - TERMINAL, display)
    except KeyboardInterrupt:
        client.cancel(job_id)  # else the home folder's next stack would go on with it
        raise
    if job["status"] != JobStatus.SUCCEEDED:
        error = job["error"] or {"code": job["status"], "message": "no reason was given"}
        raise StartRefused(f"job {job_id} {job['status']}: {error['message']} ({error['code']})")
    console.print(f"{job['fine_tuned_model']}: {job['trained_on']}", highlight=False, soft_wrap=True, markup=False)
    return str(job["fine_tuned_model"])


def wait_while(
    client: Client, job_id: str, statuses: set[JobStatus], display: TrainingDisplay | None = None
) -> dict[str, Any]:
    """Poll the job until its status is another, and give it; ``display`` takes each newest metrics."""
    while True:
        job = client.job(job_id)
        if display is not None:
            if metrics := client.latest_metrics(job_id):
                display.show(metrics)
            else:
                display.prepare(PREPARING)
        if job["status"] not in statuses:
            return job
        time.sleep(POLL_S)


@contextlib.contextmanager
def running_stack(settings: Settings) -> Iterator[None]:
    """Run `loramill up` around the block. Its output is shown only if it fails; each process has its log as always.

    Raises:
        StartRefused: it ended before it was ready; with its last lines.
    """
    with tempfile.NamedTemporaryFile(prefix="loramill-demo-", suffix=".log") as output:
        path = Path(output.name)
        process = start_bound(
            (sys.executable, "-m", "app", "up"),
            death_signal=signal.SIGTERM,
            environ={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
            output=output.fileno(),
        )
        try:
            # the line rather than /readyz: another stack could answer there
            while not any(line.startswith("ready: ") for line in path.read_text("utf-8", "replace").splitlines()):
                if process.poll() is not None:
                    raise StartRefused(f"the stack did not start:\n{_last_lines(path)}")
                time.sleep(POLL_S)
            yield
        finally:
            process.terminate()
            process.wait()


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-LINES_OF_FAILURE:])


def read_held_out(path: Path) -> list[HeldOut]:
    """Read the held-out examples.

    Raises:
        StartRefused: the file is missing or not what the demo needs.
    """
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        questions = [HeldOut(line["prompt"], line["completion"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartRefused(f"{path} does not hold lines with prompt and completion: {error!r}") from error
    if not questions:
        raise StartRefused(f"{path} is empty")
    return questions


def read_job(path: Path) -> dict[str, Any]:
    """Read the job's fields that go with the examples, none where there is no such file."""
    fields = json.loads(path.read_text("utf-8")) if path.exists() else {}
    assert isinstance(fields, dict)
    return fields


def exact_match(questions: Sequence[HeldOut], answers: Sequence[str]) -> float:
    """Give the share of answers that equal the expected one, but for white space around them."""
    right = sum(q.expected.strip() == answer.strip() for q, answer in zip(questions, answers, strict=True))
    return right / len(questions)


def print_answers(questions: Sequence[HeldOut], before: Sequence[str], after: Sequence[str]) -> None:
    """Print a handful of questions with the expected answer and both models'."""
    for question, base, adapter in list(zip(questions, before, after, strict=True))[:SHOWN]:
        rows: Mapping[str, str] = {
            "question": question.prompt,
            "expected": question.expected,
            "before": base,
            "after": adapter,
        }
        print(align([(name, json.dumps(text.strip(), ensure_ascii=False)) for name, text in rows.items()]) + "\n")
