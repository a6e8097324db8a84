"""Jobs over HTTP: what a request becomes, what is refused by which name, and when a request is a repetition."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from core.events import EventLevel, EventType
from core.jobs import AdapterRef, JobSpec
from core.store import adapters, events, jobs, leases
from tests.app.conftest import BASE, COLUMNS, LEARNING_RATE, House, upload
from tests.finished_job import finish

PLAIN_LORA = {"dropout": 0.0, "target_modules": None, "use_rslora": False, "use_dora": False}
BOTH_PLACES = {"type": "supervised", "supervised": {"hyperparameters": {}}}
FORMAT = {"prompt": "{{question}}", "completion": "{{answer}}"}


def create(client: TestClient, file_id: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": BASE, "training_file": file_id} | fields
    return client.post("/v1/fine_tuning/jobs", json=body, headers=headers)


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
        "continue_from": None,
        "quantization": None,
        "adapter_step": None,
        "started_at": None,
        "pausing": False,
        "progress": None,
        "queue_position": 1,
        "trained_on": None,
        "estimate": job["estimate"],
        "measured": None,
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
    client: TestClient, house: House, file_id: str
) -> None:
    lora = {"rank": 8, "alpha": 4.0, "dropout": 0.1, "use_rslora": True, "use_dora": True}
    job = create(client, file_id, **KNOBS, lora=lora | {"target_modules": "all-linear"}).json()
    assert {name: job[name] for name in KNOBS} == KNOBS
    assert job["lora"] == lora | {"target_modules": None}
    with house.database.read() as session:
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
    client: TestClient, house: House, file_id: str
) -> None:
    job = create(client, file_id).json()
    with house.database.write() as session:
        record = jobs.get(session, job["id"])
        kept = set(JobSpec.model_fields) - set(KNOBS) - {"continue_from"}
        lora = {key: record.spec["lora"][key] for key in ("rank", "alpha", "dropout", "target_modules")}
        record.spec = {key: record.spec[key] for key in kept} | {"lora": lora}
    shown = client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    assert shown | {"warmup_ratio": job["warmup_ratio"]} == job
    assert shown["warmup_ratio"] is None


def test_a_job_refers_to_its_file_by_content(client: TestClient, house: House, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    with house.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job_id).spec)
    assert house.blobs.exists(spec.training_file.sha256)


def test_the_doorbell_is_rung_for_a_job_that_is_already_committed(house: House) -> None:
    seen = []

    class LookingBell:
        def ring(self, job_id: str) -> bool:
            with house.database.read() as session:
                seen.append(jobs.get(session, job_id).id)
            return True

    house.bell = LookingBell()  # type: ignore[assignment]
    with TestClient(house.app()) as client:
        job = create(client, upload(client).json()["id"]).json()
    assert seen == [job["id"]]


def test_a_job_is_made_while_the_broker_is_away(house: House) -> None:
    house.bell.reaches = False
    with TestClient(house.app()) as client:
        assert create(client, upload(client).json()["id"]).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"training_file": "file-x"}, "training_file"),
        ({"validation_file": "file-x"}, "validation_file"),
        ({"suffix": "a:b"}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"epochs": 1}}, "hyperparameters.epochs"),
        (
            {"hyperparameters": {}, "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}},
            "hyperparameters",
        ),
        ({"learning_rate": 0.1, "hyperparameters": {"learning_rate_multiplier": 1}}, "learning_rate"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {"hyperparameters": {}}}}, "method.dpo"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"r": 8}}, "lora.r"),
        ({"lora": {"alpha": 0}}, "lora.alpha"),
        ({"lora": {"dropout": 1}}, "lora.dropout"),
        ({"lora": {"target_modules": []}}, "lora.target_modules"),
        ({"lora": {"target_modules": "q_proj"}}, "lora.target_modules"),
        ({"lora": {"use_dora": "perhaps"}}, "lora.use_dora"),
        ({"lora": {"use_rslora": None}}, "lora.use_rslora"),
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type"),
        ({"warmup_ratio": 1}, "warmup_ratio"),
        ({"warmup_ratio": -0.1}, "warmup_ratio"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"max_grad_norm": -1}, "max_grad_norm"),
        ({"loraplus_lr_ratio": 0.5}, "loraplus_lr_ratio"),
        ({"neftune_noise_alpha": -5}, "neftune_noise_alpha"),
        ({"n_evals": 0}, "n_evals"),
        ({"early_stopping_patience": 0}, "early_stopping_patience"),
        ({"early_stopping_patience": 3, "n_evals": 4}, "early_stopping_patience"),
        ({"load_best_model_at_end": "sometimes"}, "load_best_model_at_end"),
        ({"continue_from": "ft:nothing"}, "continue_from"),
        ({"quantization": "int8"}, "quantization"),
        ({"prompt_loss_weight": 1.5}, "prompt_loss_weight"),
        ({"max_length": 513}, "max_length"),
        ({"over_length": "cut"}, "over_length"),
        ({"prompt_format": FORMAT}, "prompt_format"),
        ({"train_on": "last_assistant"}, "train_on"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "a\x00b"}}, "metadata.k"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_400_under_its_own_name(
    client: TestClient, house: House, file_id: str, fields: dict[str, Any], param: str
) -> None:
    response = create(client, file_id, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert house.bell.rung == []


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


def test_a_base_model_that_is_not_imported_is_503(client: TestClient, house: House, file_id: str) -> None:
    (house.settings.base_models_folder / BASE / "loramill.json").unlink()
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


def test_cancelling_is_done_at_once_and_can_be_repeated(client: TestClient, file_id: str) -> None:
    job_id = create(client, file_id).json()["id"]
    for _ in range(2):
        job = client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()
        assert (job["status"], job["queue_position"]) == ("cancelled", None)
        assert job["finished_at"] is not None
    (event,) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    assert event["object"] == "fine_tuning.job.event"


class TestPause:
    def test_of_a_queued_job_is_done_at_once_and_can_be_repeated(self, client: TestClient, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        for _ in range(2):
            job = steer(client, job_id, "pause")
            assert (job["status"], job["pausing"], job["queue_position"]) == ("paused", False, None)
            assert (job["finished_at"], job["estimated_finish"]) == (None, None)
        (event,) = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
        assert (event["message"], event["data"]) == ("The job was paused; it has no checkpoint yet", {"step": 0})
        assert [job["status"] for job in client.get("/v1/fine_tuning/jobs").json()["data"]] == ["paused"]

    def test_of_a_running_job_shows_until_it_is_done(self, client: TestClient, house: House, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        token = claim(house)
        with house.database.write() as session:
            leases.heartbeat(session, job_id, token, {"step": 5, "eta_s": 30.0})
        job = steer(client, job_id, "pause")
        assert (job["status"], job["pausing"], job["estimated_finish"]) == ("running", True, None)
        with house.database.write() as session:
            leases.release(session, job_id, token, outcome=leases.PAUSED, now=20)
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert (job["status"], job["pausing"], job["progress"]["step"]) == ("paused", False, 5)

    def test_of_a_job_that_is_being_cancelled_is_in_vain(self, client: TestClient, house: House, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        claim(house)
        steer(client, job_id, "cancel")
        assert steer(client, job_id, "pause")["pausing"] is False

    @pytest.mark.parametrize(("verb", "word"), [("pause", "paused"), ("resume", "resumed")])
    def test_and_resumption_of_an_ended_job_are_refused(
        self, client: TestClient, file_id: str, verb: str, word: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        steer(client, job_id, "cancel")
        response = client.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")
        assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
        error = response.json()["error"]
        assert error["code"] == "job_has_ended"
        assert error["message"].startswith(f"job {job_id} has ended (cancelled) and cannot be {word}")
        assert client.post(f"/v1/fine_tuning/jobs/ftjob-none/{verb}").status_code == 404


class TestResume:
    def test_queues_a_paused_job_and_rings_for_it(self, client: TestClient, house: House, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        other = create(client, file_id).json()["id"]
        steer(client, job_id, "pause")
        assert client.get(f"/v1/fine_tuning/jobs/{other}").json()["queue_position"] == 1
        house.bell.rung.clear()
        job = steer(client, job_id, "resume")
        assert (job["status"], job["queue_position"]) == ("queued", 1)
        assert house.bell.rung == [job_id]

    def test_withdraws_a_pause_that_was_only_asked_for(self, client: TestClient, house: House, file_id: str) -> None:
        job_id = create(client, file_id).json()["id"]
        claim(house)
        steer(client, job_id, "pause")
        house.bell.rung.clear()
        job = steer(client, job_id, "resume")
        assert (job["status"], job["pausing"], house.bell.rung) == ("running", False, [])

    def test_after_a_long_pause_does_not_promise_an_end_that_has_passed(
        self, client: TestClient, house: House, file_id: str
    ) -> None:
        job_id = create(client, file_id).json()["id"]
        first = claim(house)
        assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["estimated_finish"] is not None
        steer(client, job_id, "pause")
        with house.database.write() as session:
            leases.release(session, job_id, first, outcome=leases.PAUSED, now=20)
        steer(client, job_id, "resume")
        claim(house)
        job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert (job["status"], job["estimated_finish"]) == ("running", None)


def steer(client: TestClient, job_id: str, verb: str) -> Any:
    response = client.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}")
    assert response.status_code == 200, response.text
    return response.json()


def claim(house: House) -> int:
    """Take the oldest queued job as a worker does; give its token."""
    with house.database.write() as session:
        job = leases.claim(session, owner="w", host="h", pid=1, base_models=(BASE,), now=10)
    assert job is not None
    return job.token


def test_jobs_are_paged_newest_first_and_filtered_by_metadata(client: TestClient, file_id: str) -> None:
    ids = [create(client, file_id, metadata={"n": str(n), "all": "yes"}).json()["id"] for n in range(3)]
    first = client.get("/v1/fine_tuning/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = client.get("/v1/fine_tuning/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    both = client.get("/v1/fine_tuning/jobs", params={"metadata[n]": "1", "metadata[all]": "yes"}).json()
    assert [job["id"] for job in both["data"]] == [ids[1]]
    assert client.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).status_code == 400


@pytest.fixture
def finished_job(client: TestClient, house: House, file_id: str) -> str:
    """Id of a job that a worker has run, with one checkpoint and a published adapter."""
    job_id = str(create(client, file_id).json()["id"])
    with house.database.write() as session:
        job = leases.claim(session, owner="w", host="h", pid=1, base_models=(BASE,), now=10)
        assert job is not None
        leases.heartbeat(session, job_id, job.token, {"step": 5, "eta_s": 30.0})
    assert client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["estimated_finish"] is not None
    with house.database.write() as session:
        data = {"step": 5, "train_loss": 0.5}
        events.append(
            session, job_id, level=EventLevel.INFO, type=EventType.METRICS, message="Step 5", data=data, now=11
        )
        adapters.add_checkpoint(
            session, job_id, 1, step=5, name="ft:x:ckpt-step-5", adapter_sha256="a" * 64, metrics=data, now=12
        )
        finish(session, job_id, now=13)
    return job_id


def test_a_finished_job_tells_its_model_and_what_it_was_trained_on(client: TestClient, finished_job: str) -> None:
    job = client.get(f"/v1/fine_tuning/jobs/{finished_job}").json()
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", "ft:x")
    assert (job["trained_tokens"], job["trained_on"], job["finished_at"]) == (9, "9 tokens", 13)
    assert job["estimated_finish"] is None


class TestContinuing:
    """A new job that goes on from what a finished one made."""

    @pytest.fixture
    def earlier(self, client: TestClient, house: House, file_id: str) -> dict[str, Any]:
        """A job of rank 8 that has succeeded, with a checkpoint."""
        lora = {"rank": 8, "alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"], "dropout": 0.1}
        job_id = str(create(client, file_id, lora=lora).json()["id"])
        with house.database.write() as session:
            assert leases.claim(session, owner="w", host="h", pid=1, base_models=(BASE,), now=10) is not None
            adapters.add_checkpoint(
                session, job_id, 1, step=5, name="ft:x:ckpt-step-5", adapter_sha256="a" * 64, metrics={}, now=12
            )
            finish(session, job_id, now=13, result={"adapter_step": 5})
        job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        return job

    @pytest.mark.parametrize(("name", "sha256"), [("ft:x", "b" * 64), ("ft:x:ckpt-step-5", "a" * 64)])
    def test_it_takes_the_adapters_shape_and_names_it_by_content(
        self, client: TestClient, house: House, file_id: str, earlier: dict[str, Any], name: str, sha256: str
    ) -> None:
        job = create(client, file_id, continue_from=name).json()
        assert job["continue_from"] == name
        assert job["lora"] == earlier["lora"] | {"dropout": 0.0}
        with house.database.read() as session:
            continued = JobSpec.model_validate(jobs.get(session, job["id"]).spec).continue_from
        assert continued == AdapterRef(name=name, adapter_sha256=sha256)

    def test_what_is_said_of_its_shape_must_agree(
        self, client: TestClient, file_id: str, earlier: dict[str, Any]
    ) -> None:
        same = {"rank": 8, "alpha": 4, "use_rslora": True, "use_dora": False, "target_modules": ["v_proj", "q_proj"]}
        assert create(client, file_id, continue_from="ft:x", lora=same).json()["lora"]["rank"] == 8
        assert create(client, file_id, continue_from="ft:x", lora={"alpha": None, "dropout": 0.5}).status_code == 200

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("rank", 16),
            ("alpha", 8),
            ("use_rslora", False),
            ("use_dora", True),
            ("target_modules", ["q_proj"]),
            ("target_modules", "all-linear"),
        ],
    )
    def test_a_contradiction_is_refused_by_its_field(
        self, client: TestClient, file_id: str, earlier: dict[str, Any], field: str, value: Any
    ) -> None:
        response = create(client, file_id, continue_from="ft:x", lora={field: value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == f"lora.{field}"
        assert "ft:x" in response.json()["error"]["message"]

    def test_a_deleted_model_cannot_be_gone_on_from(
        self, client: TestClient, file_id: str, earlier: dict[str, Any]
    ) -> None:
        assert client.delete("/v1/models/ft:x").status_code == 200
        for name in ("ft:x", "ft:x:ckpt-step-5"):
            assert create(client, file_id, continue_from=name).json()["error"]["param"] == "continue_from"

    def test_a_job_tells_which_step_its_adapter_is_of(self, earlier: dict[str, Any]) -> None:
        assert earlier["adapter_step"] == 5


def test_events_come_newest_first_in_pages(client: TestClient, finished_job: str) -> None:
    url = f"/v1/fine_tuning/jobs/{finished_job}/events"
    first = client.get(url, params={"limit": 1}).json()
    assert first["has_more"] is True
    rest = client.get(url, params={"after": first["last_id"]}).json()
    assert rest["has_more"] is False
    (event,) = rest["data"]
    assert event == {
        "id": event["id"],
        "object": "fine_tuning.job.event",
        "created_at": 11,
        "level": "info",
        "message": "Step 5",
        "type": "metrics",
        "data": {"step": 5, "train_loss": 0.5},
    }


def test_checkpoints_have_the_protocols_shape(client: TestClient, finished_job: str) -> None:
    page = client.get(f"/v1/fine_tuning/jobs/{finished_job}/checkpoints").json()
    (checkpoint,) = page["data"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (checkpoint["id"], checkpoint["id"], False)
    assert checkpoint == {
        "id": checkpoint["id"],
        "object": "fine_tuning.job.checkpoint",
        "created_at": 12,
        "fine_tuning_job_id": finished_job,
        "fine_tuned_model_checkpoint": "ft:x:ckpt-step-5",
        "step_number": 5,
        "metrics": {"step": 5, "train_loss": 0.5},
    }


@pytest.mark.parametrize("path", ["", "/events", "/checkpoints"])
def test_a_missing_job_is_404(client: TestClient, path: str) -> None:
    response = client.get(f"/v1/fine_tuning/jobs/ftjob-x{path}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "job_not_found"
