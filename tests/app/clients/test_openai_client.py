"""The official client, unmodified, against the API on a socket."""

import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import SecretStr

from core.errors import EngineBusy, EngineUnavailable, GenerationFailed
from core.jobs.attempt import StoredAdapter, StoredCheckpoint
from core.store import adapters, files
from core.store.queue import claims, leases
from tests.app.conftest import BASE, EXAMPLES, ApiHarness, serving
from tests.harness.finished_job import finish
from tests.harness.models.published_model import publish

KEY = "correct-horse-battery"


@pytest.fixture
def client(harness: ApiHarness) -> Iterator[openai.OpenAI]:
    harness.settings = harness.settings.model_copy(update={"api_key": SecretStr(KEY)})
    with serving(harness.app()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def file_id(client: openai.OpenAI) -> str:
    return client.files.create(file=("data.jsonl", EXAMPLES), purpose="fine-tune").id


def test_files(client: openai.OpenAI, file_id: str) -> None:
    file = client.files.wait_for_processing(file_id)
    assert (file.status, file.bytes, file.filename) == ("processed", len(EXAMPLES), "data.jsonl")
    others = [client.files.create(file=("x", EXAMPLES), purpose="fine-tune").id for _ in range(2)]
    assert [file.id for file in client.files.list(limit=1)] == [*reversed(others), file_id]
    assert client.files.content(file_id).content == EXAMPLES
    assert client.files.delete(file_id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_a_file_over_the_limit_is_told_to_a_client_that_sends_first(client: openai.OpenAI, harness: ApiHarness) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.files.create(file=("x", b"x" * (4 * harness.settings.max_upload_bytes)), purpose="fine-tune")
    assert raised.value.status_code == 413
    assert raised.value.code == "file_too_large"
    assert harness.stored_bytes() == []


def test_jobs(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file_id,
        suffix="mine",
        metadata={"k": "v"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"lora": {"rank": 8}, "prompt_loss_weight": 0.1},
    )
    assert job.status == "queued"
    assert job.hyperparameters.n_epochs == 2
    assert job.error is None
    assert job.model_extra is not None
    assert job.model_extra["lora"]["rank"] == 8
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    others = [client.fine_tuning.jobs.create(model=BASE, training_file=file_id).id for _ in range(2)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == [*reversed(others), job.id]
    assert [found.id for found in client.fine_tuning.jobs.list(metadata={"k": "v"})] == [job.id]
    paused: str = client.fine_tuning.jobs.pause(job.id).status  # the client's type lists no such status
    assert paused == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="cannot be resumed"):
        client.fine_tuning.jobs.resume(job.id)
    event = client.fine_tuning.jobs.list_events(job.id).data[0]
    assert (event.level, event.type) == ("info", "message")


def test_result_files(client: openai.OpenAI, harness: ApiHarness, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model=BASE, training_file=file_id).id
    assert client.fine_tuning.jobs.retrieve(job_id).result_files == []
    content = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,1.5,0.5,,\n"
    blob = harness.blobs.put_bytes(content)
    with harness.database.write() as session:
        assert claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 1)
        file = files.create_results(session, job_id, blob, ("step", "train_loss"), 2)
        finish(session, job_id, now=2, result={"result_files": [file.id]})
    [result_file] = client.fine_tuning.jobs.retrieve(job_id).result_files
    found = client.files.retrieve(result_file)
    assert (found.purpose, found.filename, found.bytes) == ("fine-tune-results", "step_metrics.csv", len(content))
    assert client.files.content(result_file).text == content.decode()
    assert [file.id for file in client.files.list(purpose="fine-tune-results")] == [result_file]
    with pytest.raises(openai.BadRequestError, match="a job's results"):
        client.fine_tuning.jobs.create(model=BASE, training_file=result_file)
    assert client.files.delete(result_file).deleted is True


def test_checkpoints_page_by_page(client: openai.OpenAI, harness: ApiHarness, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model=BASE, training_file=file_id).id
    with harness.database.write() as session:
        assert claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 1)
        for step in (1, 2, 3):
            adapters.add_checkpoint(
                session,
                leases.Lease(job_id, 1),
                StoredCheckpoint(step, f"ft:c{step}", StoredAdapter("a" * 64, 10, ()), {}),
                1,
            )
    found = list(client.fine_tuning.jobs.checkpoints.list(job_id, limit=1))
    assert [checkpoint.step_number for checkpoint in found] == [3, 2, 1]
    names = [client.models.retrieve(checkpoint.fine_tuned_model_checkpoint).id for checkpoint in found]
    assert names == ["ft:c3", "ft:c2", "ft:c1"]
    assert [model.id for model in client.models.list()] == [BASE]


def test_models(client: openai.OpenAI, harness: ApiHarness) -> None:
    with harness.database.write() as session:
        publish(session, "ft:org/name")
    assert [model.id for model in client.models.list()] == [BASE, "ft:org/name"]
    assert client.models.retrieve("ft:org/name").id == "ft:org/name"
    with pytest.raises(openai.ConflictError):
        client.models.delete(BASE)
    assert client.models.delete("ft:org/name").deleted is True


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI, harness: ApiHarness) -> None:
    harness.engine.fails_after = (1, GenerationFailed("x"))
    with pytest.raises(openai.APIError, match="generation failed: x"):
        list(client.completions.create(model=BASE, prompt="a", stream=True))


def test_errors_have_their_classes_and_all_their_fields(
    client: openai.OpenAI, harness: ApiHarness, file_id: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.fine_tuning.jobs.create(model=BASE, training_file=file_id, extra_body={"lora": {"rank": 0}})
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "lora.rank",
        "invalid_parameter",
        "invalid_request_error",
    )
    assert bad.value.request_id is not None
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-5", prompt="a")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    harness.engine.fails_before = EngineBusy(3, 2)
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model=BASE, prompt="a")
    harness.engine.fails_before = EngineUnavailable(BASE, "no answer")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model=BASE, prompt="a")


def test_what_cannot_succeed_is_not_retried(client: openai.OpenAI, harness: ApiHarness, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model=BASE, training_file=file_id).id
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.ConflictError) as raised:
        patient.files.delete(file_id)
    assert raised.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert json.loads(raised.value.response.content)["error"]["message"].count(job_id) == 1
