"""Jobs over HTTP: what a request becomes, what is refused by which name, and when a request is a repetition."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.base_models.registry import IMPORTED_FILE
from core.jobs.attempt import AttemptEnd
from core.jobs.events import EventLevel, JobEvent
from core.jobs.spec import JobSpec
from core.settings import Settings
from core.store import jobs
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.store.queue.unfit_hosts import UNFIT
from tests.app.conftest import BASE, COLUMNS, LEARNING_RATE, LOCAL, ApiHarness, upload
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.wrong_fields import FORMAT, WRONG_FIELDS

PLAIN_LORA = {"dropout": 0.0, "target_modules": None, "use_rslora": False, "use_dora": False}


def test_a_job_echoes_what_every_auto_became(client: TestClient, file_id: str) -> None:
    job = create(
        client, file_id, hyperparameters={"n_epochs": "auto"}, seed=7, suffix="mine", metadata={"k": "v"}
    ).json()
    hyperparameters = {"n_epochs": 3, "batch_size": 12, "learning_rate_multiplier": 1.0}
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": job["created_at"],
        "finished_at": None,
        "model": BASE,
        "fine_tuned_model": None,
        "organization_id": "local",
        "status": "queued",
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "training_file": file_id,
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "error": None,
        "seed": 7,
        "estimated_finish": None,
        "integrations": [],
        "metadata": {"k": "v"},
        "user_provided_suffix": "mine",
        "lora": PLAIN_LORA | {"rank": 16, "alpha": 32.0},
        "prompt_loss_weight": 0.0,
        "train_on": "all_assistant",
        "prompt_format": None,
        "max_length": 512,
        "over_length": "drop",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 2 / 24,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "loraplus_lr_ratio": 1.0,
        "neftune_noise_alpha": 0.0,
        "n_evals": 4,
        "early_stopping_patience": None,
        "load_best_model_at_end": False,
        "evaluation": None,
        "evaluation_id": None,
        "base_model_fingerprint": "0" * 64,
        "continue_from": None,
        "quantization": None,
        "adapter_step": None,
        "started_at": None,
        "pausing": False,
        "progress": None,
        "queue_position": 1,
        "waiting_reason": None,
        "trained_on": None,
        "estimate": job["estimate"],
        "measured": None,
        "rerun": None,
    }
    assert job["estimate"]["examples"] + job["estimate"]["held_out_examples"] == 100
    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job


def test_given_values_are_kept(client: TestClient, file_id: str) -> None:
    job = create(
        client,
        file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
        learning_rate=2 * LEARNING_RATE,
        lora={"rank": 4, "target_modules": ["q_proj"]},
        prompt_loss_weight=0.5,
        max_length=100,
        over_length="error",
        validation_file=file_id,
    ).json()
    assert job["hyperparameters"] == {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2.0}
    assert job["learning_rate"] == 2 * LEARNING_RATE
    assert job["lora"] == PLAIN_LORA | {"rank": 4, "alpha": 8.0, "target_modules": ["q_proj"]}
    assert (job["prompt_loss_weight"], job["max_length"], job["over_length"]) == (0.5, 100, "error")
    assert job["validation_file"] == file_id


KNOBS: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "weight_decay": 0.01,
    "max_grad_norm": 0.0,
    "loraplus_lr_ratio": 16.0,
    "neftune_noise_alpha": 5.0,
    "n_evals": 6,
    "early_stopping_patience": 2,
    "load_best_model_at_end": False,
    "quantization": "nf4",
}


def test_every_knob_that_is_given_is_kept_and_reaches_the_specification(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    lora = {"rank": 8, "alpha": 4.0, "dropout": 0.1, "use_rslora": True, "use_dora": True}
    job = create(client, file_id, **KNOBS, lora=lora | {"target_modules": "all-linear"}).json()
    assert {name: job[name] for name in KNOBS} == KNOBS
    assert job["lora"] == lora | {"target_modules": None}
    with harness.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job["id"]).spec)
    assert spec.model_dump(include=set(KNOBS)) == KNOBS
    assert (spec.lora.use_rslora, spec.lora.use_dora) == (True, True)


@pytest.mark.parametrize(
    "name",
    ["warmup_ratio", "weight_decay", "max_grad_norm", "loraplus_lr_ratio", "n_evals", "load_best_model_at_end"],
)
def test_auto_null_and_absence_mean_the_same(client: TestClient, file_id: str, name: str) -> None:
    chosen = [create(client, file_id, **fields).json()[name] for fields in ({name: "auto"}, {name: None}, {})]
    assert chosen[0] == chosen[1] == chosen[2] is not None


def test_a_job_that_was_stored_before_there_were_knobs_is_still_shown(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    job = create(client, file_id).json()
    with harness.database.write() as session:
        record = jobs.get(session, job["id"])
        kept = set(JobSpec.model_fields) - set(KNOBS) - {"continue_from", "base_model_fingerprint"}
        lora = {key: record.spec["lora"][key] for key in ("rank", "alpha", "dropout", "target_modules")}
        record.spec = {key: record.spec[key] for key in kept} | {"lora": lora}
    shown = client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    later = ("warmup_ratio", "base_model_fingerprint")
    assert [shown.pop(name) for name in later] == [None, None]
    assert shown | {name: job[name] for name in later} == job


def test_a_job_stays_with_the_base_model_that_it_was_made_for(
    client: TestClient, settings: Settings, file_id: str
) -> None:
    job = create(client, file_id).json()
    record = settings.base_models_folder / BASE / IMPORTED_FILE
    record.write_text(record.read_text().replace("0" * 64, "1" * 64))
    made_now = create(client, file_id, seed=1).json()
    shown = client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    assert (shown["base_model_fingerprint"], made_now["base_model_fingerprint"]) == ("0" * 64, "1" * 64)


def test_a_job_that_its_host_could_not_run_says_why_while_it_waits(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    job_id = create(client, file_id).json()["id"]
    why = "a cannot run the job now: no space is left to make the run folder"

    def claim(host: str) -> Lease:
        with harness.database.write() as session:
            job = claims.claim(session, WorkerIdentity("owner", host, 1), (BASE,), now=1000)
        assert job is not None
        return Lease(job.id, job.token)

    def shown() -> list[tuple[str, str | None]]:
        answers = [client.get(f"/v1/fine_tuning/jobs/{job_id}").json()]
        answers += client.get("/v1/fine_tuning/jobs").json()["data"]
        return [(job["status"], job["waiting_reason"]) for job in answers]

    lease = claim("a")
    with harness.database.write() as session:
        leases.release(session, lease, UNFIT, AttemptEnd(), now=1001, because=JobEvent(why, EventLevel.WARN))
    assert shown() == [("queued", why)] * 2
    told = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][0]
    assert (told["level"], told["message"]) == ("warn", why)
    claim("b")
    assert shown() == [("running", None)] * 2


def test_a_job_refers_to_its_file_by_content(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    with harness.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job_id).spec)
    assert harness.blobs.exists(spec.training_file.sha256)


def test_workers_are_notified_of_a_job_that_is_already_committed(harness: ApiHarness) -> None:
    seen = []

    class LookingNotifier:
        def notify(self, job_id: str) -> bool:
            with harness.database.read() as session:
                seen.append(jobs.get(session, job_id).id)
            return True

    harness.notifier = LookingNotifier()  # type: ignore[assignment]
    with TestClient(harness.app(), base_url=LOCAL) as client:
        job = create(client, upload(client).json()["id"]).json()
    assert seen == [job["id"]]


def test_a_job_is_made_while_the_broker_is_away(harness: ApiHarness) -> None:
    harness.notifier.reaches = False
    with TestClient(harness.app(), base_url=LOCAL) as client:
        assert create(client, upload(client).json()["id"]).status_code == 200


@pytest.mark.parametrize(("fields", "param"), [({"training_file": "file-x"}, "training_file"), *WRONG_FIELDS])
def test_a_wrong_field_is_400_under_its_own_name(
    client: TestClient, harness: ApiHarness, file_id: str, fields: dict[str, Any], param: str
) -> None:
    response = create(client, file_id, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert harness.notifier.notified == []


@pytest.mark.parametrize("fields", [{"colour": 1}, {"method": {"type": "dpo"}}, {"integrations": [1]}])
def test_what_is_not_implemented_has_a_code_of_its_own(
    client: TestClient, file_id: str, fields: dict[str, Any]
) -> None:
    assert create(client, file_id, **fields).json()["error"]["code"] == "unsupported_parameter"


def test_the_protocols_empty_values_of_what_is_not_implemented_pass(client: TestClient, file_id: str) -> None:
    assert create(client, file_id, integrations=None, suffix=None, metadata=None).status_code == 200


def test_an_unknown_base_model_is_404(client: TestClient, file_id: str) -> None:
    response = create(client, file_id, model="phi-2")  # in the registry, but not of this deployment
    assert response.status_code == 404
    assert response.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_file_with_problems_cannot_be_trained_on(client: TestClient) -> None:
    broken = upload(client, b"{broken\n").json()["id"]
    error = create(client, broken).json()["error"]
    assert error["param"] == "training_file"
    assert "line 1" in error["message"]


def test_columns_need_a_prompt_format_that_names_them(client: TestClient) -> None:
    columns = upload(client, COLUMNS).json()["id"]
    assert create(client, columns).json()["error"]["param"] == "prompt_format"
    wrong = create(client, columns, prompt_format=FORMAT | {"completion": "{{colour}}"})
    assert wrong.json()["error"]["param"] == "prompt_format.completion"
    assert create(client, columns, prompt_format=FORMAT).json()["prompt_format"] == FORMAT


def test_last_assistant_is_for_conversations(client: TestClient) -> None:
    chat = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    file_id = upload(client, chat).json()["id"]
    assert create(client, file_id, train_on="last_assistant").json()["train_on"] == "last_assistant"
    columns = upload(client, COLUMNS).json()["id"]
    refused = create(client, columns, train_on="last_assistant", prompt_format=FORMAT).json()["error"]
    assert (refused["param"], "holds columns" in refused["message"]) == ("train_on", True)


def test_a_base_model_that_is_not_imported_is_503(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    (harness.settings.base_models_folder / BASE / "loramill.json").unlink()
    response = create(client, file_id)
    assert response.status_code == 503
    assert "loramill base-models import" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "60"


class TestRepetition:
    def test_the_same_key_gives_the_same_job(self, client: TestClient, file_id: str) -> None:
        first, second = (create(client, file_id, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2))
        assert first == second

    def test_the_same_key_with_another_body_is_422(self, client: TestClient, file_id: str) -> None:
        create(client, file_id, headers={"Idempotency-Key": "k"})
        response = create(client, file_id, headers={"Idempotency-Key": "k"}, seed=1)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "idempotency_mismatch"

    def test_a_refused_request_does_not_use_its_key_up(self, client: TestClient, file_id: str) -> None:
        assert create(client, "file-x", headers={"Idempotency-Key": "k"}).status_code == 400
        assert create(client, file_id, headers={"Idempotency-Key": "k"}).status_code == 200

    def test_the_official_clients_retry_gives_the_same_job(self, client: TestClient, file_id: str) -> None:
        first = create(client, file_id, headers={"x-stainless-retry-count": "0"}).json()["id"]
        assert create(client, file_id, headers={"x-stainless-retry-count": "1"}).json()["id"] == first

    def test_a_second_request_that_is_no_retry_gives_another_job(self, client: TestClient, file_id: str) -> None:
        first = create(client, file_id, headers={"x-stainless-retry-count": "0"}).json()["id"]
        assert create(client, file_id, headers={"x-stainless-retry-count": "0"}).json()["id"] != first

    def test_a_retry_of_another_request_gives_another_job(self, client: TestClient, file_id: str) -> None:
        first = create(client, file_id).json()["id"]
        assert create(client, file_id, headers={"x-stainless-retry-count": "1"}, seed=1).json()["id"] != first
