"""The whole service as one user sees it: real processes, the official client, and processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import APIError, AuthenticationError, NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from core.jobs.status import TERMINAL
from core.serving.adapter_format import parse_manifest
from core.settings import Settings
from core.store import adapters
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from tests.harness.parquet_files import parquet_of
from tests.harness.servers.stack import (
    TINY,
    VICTIMS,
    Stack,
    command_environ,
    eventually,
    free_port,
    running_stack,
    upload,
    write_examples,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def training_file(client: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> str:
    return upload(client, write_examples(tmp_path_factory.mktemp("data") / "train.jsonl"))


@pytest.mark.parametrize("file_type", ["csv", "parquet"])
def test_a_table_trains_as_lines_do(client: OpenAI, file_type: str) -> None:
    rows = [{"question": f"Frage {n}: ", "answer": "ja" if n % 2 else "nein"} for n in range(48)]
    contents = {
        "csv": b"question,answer\n" + b"".join(f"{row['question']},{row['answer']}\n".encode() for row in rows),
        "parquet": parquet_of({name: [row[name] for row in rows] for name in rows[0]}),
    }
    file = client.files.create(file=(f"train.{file_type}", contents[file_type]), purpose="fine-tune")
    assert (file.status, (file.model_extra or {})["file_type"]) == ("processed", file_type)
    prompt_format = {"prompt": "{{question}}", "completion": "{{answer}}"}
    job = wait_for_end(client, start_job(client, file.id, n_epochs=1, suffix=file_type, prompt_format=prompt_format).id)
    assert (job.status, job.error) == ("succeeded", None)


def start_job(client: OpenAI, training_file: str, *, n_epochs: int, suffix: str, **extra: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model=TINY,
        training_file=training_file,
        suffix=suffix,
        seed=7,
        hyperparameters={"n_epochs": n_epochs, "batch_size": 4},
        extra_body={"lora": {"rank": 4}, **extra},
    )


def wait_for_end(client: OpenAI, job_id: str) -> FineTuningJob:
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).status in TERMINAL, f"the end of {job_id}", 300)
    return client.fine_tuning.jobs.retrieve(job_id)


def steps_done(client: OpenAI, job_id: str) -> int:
    """Give the step of the newest metrics event, 0 before the first."""
    events = client.fine_tuning.jobs.list_events(job_id, limit=20).data
    return next((data_of(event)["step"] for event in events if event.type == "metrics"), 0)


def data_of(event: FineTuningJobEvent) -> dict[str, Any]:
    assert isinstance(event.data, dict)
    return event.data


@pytest.fixture(scope="module")
def trained(client: OpenAI, training_file: str) -> FineTuningJob:
    job = start_job(client, training_file, n_epochs=2, suffix="flow")
    assert job.status == "queued"
    ended = wait_for_end(client, job.id)
    assert ended.status == "succeeded", ended.error
    return ended


class TestFlow:
    def test_a_finished_job_names_its_model_and_counts_its_tokens(self, trained: FineTuningJob) -> None:
        assert trained.fine_tuned_model is not None
        assert trained.fine_tuned_model.startswith(f"ft:{TINY}:local:flow:")
        assert trained.trained_tokens is not None
        assert trained.trained_tokens > 0
        assert trained.finished_at is not None
        assert trained.error is None

    def test_jobs_are_listed_with_their_events_and_checkpoints(self, client: OpenAI, trained: FineTuningJob) -> None:
        assert trained.id in [job.id for job in client.fine_tuning.jobs.list()]
        events = list(client.fine_tuning.jobs.list_events(trained.id, limit=5))  # pages through all
        assert len({event.id for event in events}) == len(events)
        metrics = [data_of(event) for event in events if event.type == "metrics"]
        steps = [data for data in metrics if "train_loss" in data]
        assert [data["step"] for data in steps] == list(range(steps[0]["total_steps"], 0, -1))
        assert all({"tokens_per_s", "eta_s", "learning_rate"} <= data.keys() for data in steps)
        assert any("full_valid_loss" in data for data in metrics)
        checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id))
        assert checkpoints
        assert all(c.fine_tuned_model_checkpoint.endswith(f":ckpt-step-{c.step_number}") for c in checkpoints)

    def test_the_model_is_listed_and_answers(self, client: OpenAI, trained: FineTuningJob) -> None:
        name = str(trained.fine_tuned_model)
        assert {TINY, name} <= {model.id for model in client.models.list()}
        assert client.models.retrieve(name).id == name
        answer = client.completions.create(model=name, prompt="Frage 1: ", max_tokens=8, temperature=0)
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 8
        base = client.completions.create(model=TINY, prompt="Frage 1: ", max_tokens=8, temperature=0)
        assert base.choices[0].text != answer.choices[0].text

    def test_a_stream_tells_the_same_text(self, client: OpenAI, trained: FineTuningJob) -> None:
        name = str(trained.fine_tuned_model)
        whole = client.completions.create(model=name, prompt="Frage 2: ", max_tokens=8, temperature=0)
        parts = client.completions.create(model=name, prompt="Frage 2: ", max_tokens=8, temperature=0, stream=True)
        assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text

    def test_generate_speaks_the_other_wire(self, stack: Stack, client: OpenAI, trained: FineTuningJob) -> None:
        name = str(trained.fine_tuned_model)
        parameters = {"adapter_id": name, "max_new_tokens": 8}
        body = {"inputs": "Frage 1: ", "parameters": parameters}
        status, answer = stack.post("/generate", body)
        assert status == 200, answer
        text = json.loads(answer)["generated_text"]
        completion = client.completions.create(model=name, prompt="Frage 1: ", max_tokens=8, temperature=0)
        assert text == completion.choices[0].text
        status, stream = stack.post("/generate_stream", body)
        assert status == 200, stream
        events = [json.loads(line[5:]) for line in stream.decode().splitlines() if line.startswith("data:")]
        assert events[-1]["generated_text"] == text

    def test_variables_are_rendered_as_they_were_trained(self, stack: Stack, client: OpenAI, tmp_path: Path) -> None:
        rows = [{"question": f"Frage {i}", "sources": [{"text": "a"}] * (i % 3), "answer": "ja"} for i in range(24)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with (tmp_path / "rows.jsonl").open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        prompt_format = {
            "prompt": "Q: {{question}}\n{{#sources}}- {{text}}\n{{/sources}}A: ",
            "completion": "{{answer}}",
        }
        created = start_job(client, file.id, n_epochs=1, suffix="columns", prompt_format=prompt_format)
        name = wait_for_end(client, created.id).fine_tuned_model
        variables = {"question": "Wer?", "sources": [{"text": "er"}]}
        status, rendered = stack.post("/v1/render", {"model": name, "variables": variables})
        assert status == 200, rendered
        rendering = json.loads(rendered)
        assert (rendering["text"], rendering["moved_whitespace"]) == ("Q: Wer?\n- er\nA:", " ")
        parameters = {"adapter_id": name, "max_new_tokens": 8, "return_full_text": True}
        status, answer = stack.post("/generate", {"variables": variables, "parameters": parameters})
        assert status == 200, answer
        ids = rendering["input_ids"]
        completion = client.completions.create(model=str(name), prompt=ids, max_tokens=8, temperature=0)
        assert json.loads(answer)["generated_text"] == rendering["text"] + completion.choices[0].text
        status, refused = stack.post("/generate", {"variables": {"question": "Wer?"}, "parameters": parameters})
        assert (status, json.loads(refused)["error"]) == (400, 'variables: there is no column "sources"')

    def test_a_checkpoint_can_be_asked(self, client: OpenAI, trained: FineTuningJob) -> None:
        checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(trained.id)))
        name = checkpoint.fine_tuned_model_checkpoint
        assert client.completions.create(model=name, prompt="Frage 1: ", max_tokens=4).choices

    def test_a_cancelled_job_stays_cancelled(self, client: OpenAI, training_file: str) -> None:
        job = start_job(client, training_file, n_epochs=50, suffix="cancelled")
        eventually(lambda: steps_done(client, job.id) > 0, "a first step")
        client.fine_tuning.jobs.cancel(job.id)
        ended = wait_for_end(client, job.id)
        assert ended.status == "cancelled"
        assert ended.fine_tuned_model is None
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"

    def test_a_deleted_model_is_gone(self, client: OpenAI, training_file: str) -> None:
        job = wait_for_end(client, start_job(client, training_file, n_epochs=1, suffix="deleted").id)
        name = str(job.fine_tuned_model)
        assert client.models.delete(name).deleted
        assert name not in {model.id for model in client.models.list()}
        with pytest.raises(NotFoundError):
            client.completions.create(model=name, prompt="x")


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_job_outlives_a_killed_process(stack: Stack, client: OpenAI, training_file: str, victim: str) -> None:
    job = start_job(client, training_file, n_epochs=30, suffix=f"killed-{victim}")
    eventually(lambda: steps_done(client, job.id) >= 20, "the middle of the job")
    processes = stack.processes(*VICTIMS[victim])
    assert processes
    for process in processes:
        process.kill()
    eventually(stack.is_ready, "readiness after the kill")

    ended = wait_for_end(client, job.id)

    assert ended.status == "succeeded", ended.error
    adapters = [model.id for model in client.models.list() if f"killed-{victim}:" in model.id]
    assert adapters == [ended.fine_tuned_model]
    messages = [event for event in client.fine_tuning.jobs.list_events(job.id, limit=100) if event.type == "message"]
    assert sum("successfully completed" in event.message for event in messages) == 1
    answer = client.completions.create(model=adapters[0], prompt="Frage 1: ", max_tokens=4)
    assert answer.choices


def test_an_engine_that_dies_while_it_answers_is_named_and_answers_again(stack: Stack, client: OpenAI) -> None:
    engines = stack.processes(*VICTIMS["engine"])
    assert engines
    with client.completions.create(model=TINY, prompt="Frage", max_tokens=100, stream=True) as answer:
        next(answer)
        for engine in engines:
            engine.kill()
        with pytest.raises(APIError, match=f"the engine for {TINY} does not answer"):
            list(answer)

    eventually(lambda: not stack.is_ready(), "the loss of the engine")
    eventually(stack.is_ready, "readiness after the kill")
    assert client.completions.create(model=TINY, prompt="Frage", max_tokens=4).choices


def test_a_paused_job_leaves_its_worker_free_and_goes_on_to_the_same_weights(
    stack: Stack, client: OpenAI, training_file: str
) -> None:
    job = start_job(client, training_file, n_epochs=30, suffix="paused")
    eventually(lambda: steps_done(client, job.id) >= 20, "the middle of the job")
    client.fine_tuning.jobs.pause(job.id)
    eventually(lambda: is_paused(client, job.id), "the pause", 60)
    assert not stack.processes(*VICTIMS["trainer"])
    paused_at = steps_done(client, job.id)
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data[0].step_number == paused_at

    undisturbed = wait_for_end(client, start_job(client, training_file, n_epochs=30, suffix="undisturbed").id)
    assert is_paused(client, job.id)
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    ended = wait_for_end(client, job.id)

    assert (ended.status, undisturbed.status) == ("succeeded", "succeeded"), (ended.error, undisturbed.error)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert f"Resumed from the checkpoint of step {paused_at}" in [event.message for event in events]
    metrics = [data_of(event) for event in events if event.type == "metrics"]
    steps = [data for data in metrics if "train_loss" in data]
    total_steps = steps[0]["total_steps"]
    assert [data["step"] for data in steps] == list(range(total_steps, 0, -1))  # none left out, none taken twice
    assert weights_of(stack, ended) == weights_of(stack, undisturbed)


def is_paused(client: OpenAI, job_id: str) -> bool:
    status: str = client.fine_tuning.jobs.retrieve(job_id).status  # the client's type lists no such status
    return status == "paused"


def weights_of(stack: Stack, job: FineTuningJob) -> str:
    """Give the digest of the weights that a job published."""
    settings = Settings(home=stack.home)
    database = Database(settings.database)
    with database.read() as session:
        manifest_sha256 = adapters.get(session, str(job.fine_tuned_model)).adapter_sha256
    database.dispose()
    with LocalBlobStore(settings.store_folder).open(manifest_sha256) as manifest:
        return parse_manifest(manifest.read()).files["adapter_model.safetensors"].sha256


def test_two_stacks_run_side_by_side(stack: Stack, tmp_path: Path, client: OpenAI) -> None:
    with running_stack(tmp_path / "second") as second, second.client() as other:
        path = write_examples(tmp_path / "train.jsonl", count=8)
        with path.open("rb") as content:
            file = other.files.create(file=content, purpose="fine-tune")
        job = wait_for_end(other, start_job(other, file.id, n_epochs=1, suffix="second").id)
        assert job.status == "succeeded", job.error
        assert job.id not in [known.id for known in client.fine_tuning.jobs.list()]
        assert stack.is_ready()


def test_a_second_stack_on_the_same_home_is_refused(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "up"],
        env=command_environ(stack.home, free_port()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "another stack runs on" in done.stderr


def test_a_second_stack_on_the_same_port_is_refused(stack: Stack, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "up"],
        env=command_environ(tmp_path / "other", stack.port),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"port {stack.port}: Address already in use" in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_key_that_is_set_is_asked_for(tmp_path: Path) -> None:
    key = "a-key-of-sixteen-characters"
    with running_stack(tmp_path, LORAMILL_API_KEY=key) as stack:
        assert stack.get("/livez")[0] == 200
        assert stack.get("/v1/models")[0] == 401
        assert stack.post("/generate", {"inputs": "x"})[0] == 401
        with stack.client("a-wrong-key-of-some-length") as stranger, pytest.raises(AuthenticationError):
            stranger.models.list()
        with stack.client(key) as friend:
            assert TINY in {model.id for model in friend.models.list()}
        assert key not in stack.output.read_text()


def test_a_killed_supervisor_takes_all_with_it_and_the_job_goes_on_later(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack, stack.client() as client:
        path = write_examples(tmp_path / "train.jsonl")
        with path.open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        job_id = start_job(client, file.id, n_epochs=30, suffix="orphan").id
        eventually(lambda: steps_done(client, job_id) >= 20, "the middle of the job")
        family = psutil.Process(stack.process.pid).children(recursive=True)
        assert len(family) >= 5
        os.kill(stack.process.pid, signal.SIGKILL)
        stack.process.wait()
        eventually(lambda: not any(is_alive(process) for process in family), "the end of all processes", 60)
    with running_stack(tmp_path) as stack, stack.client() as client:
        ended = wait_for_end(client, job_id)
        assert ended.status == "succeeded", ended.error


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_stops_in_order_and_in_time(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        family = psutil.Process(stack.process.pid).children(recursive=True)
        started = time.monotonic()
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(60) == 0
        assert not any(is_alive(process) for process in family)
        assert "killed" not in stack.output.read_text()
        assert time.monotonic() - started < 60
