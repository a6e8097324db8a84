import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from app.fine_tuning import machines, token_counts
from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.status import JobStatus
from core.store import jobs
from core.store.db import Session
from core.store.queue import claims, leases
from tests.app.conftest import BASE, LOCAL, ApiHarness, upload
from tests.harness.fake_trainer import MEASURED
from tests.harness.models.tiny_shapes import TINY_LLAMA, write_shapes

ROUTE = "/v1/fine_tuning/estimates"
JOBS = "/v1/fine_tuning/jobs"
NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def a_cpu_with_8_gib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machines, "_NVIDIA_DRIVER", tmp_path / "no-gpu")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**33, available=2**32))


def body(file_id: str, **fields: Any) -> dict[str, Any]:
    return {"model": BASE, "training_file": file_id, "seed": 7, **fields}


def estimate(client: TestClient, file_id: str, **fields: Any) -> dict[str, Any]:
    response = client.post(ROUTE, json=body(file_id, **fields))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def lines(*examples: dict[str, Any]) -> bytes:
    return "".join(json.dumps(example) + "\n" for example in examples).encode()


def finish(harness: ApiHarness, job_id: str, measured: Any = MEASURED) -> None:
    """End a queued job as a worker would."""
    with harness.database.write() as session:
        job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), NOW)
        assert job is not None
        assert job.id == job_id
        publish(session, job_id, job.token, measured)


def publish(session: Session, job_id: str, token: int, measured: Any) -> None:
    result = {"steps": 4, "metrics": {}, "measured": measured.model_dump(mode="json")}
    leases.publish(
        session,
        leases.Lease(job_id, token),
        Publication(StoredAdapter("a" * 64, 1, ()), f"ft:{job_id}", "", trained_tokens=4, result=result),
        AttemptEnd(last_step=4),
        NOW,
    )


class TestEstimate:
    def test_counts_by_the_jobs_own_settings(self, client: TestClient) -> None:
        content = lines(*({"prompt": "ab", "completion": f"{n}" * (1 + n)} for n in range(7)))
        file_id = upload(client, content).json()["id"]
        found = estimate(
            client,
            file_id,
            validation_file=file_id,
            hyperparameters={"n_epochs": 2, "batch_size": 2},
            max_length=8,
            prompt_loss_weight=0.5,
        )
        kept = range(5)  # of n + 4 tokens, closing one included
        assert (found["examples"], found["dropped_examples"], found["untrained_examples"]) == (5, 2, 0)
        assert found["seen_tokens"] == 2 * sum(n + 4 for n in kept)
        assert found["trained_tokens"] == 2 * sum(n + 3 for n in kept)  # nothing predicts the first token
        assert found["steps"] == 6
        assert found["evaluated_tokens"] == 5 * sum(n + 4 for n in kept)
        assert (found["sampled"], found["read_examples"]) == (False, 7)

    def test_counts_the_evaluations_that_the_job_asks_for(self, client: TestClient, file_id: str) -> None:
        few, many = (estimate(client, file_id, validation_file=file_id, n_evals=n)["evaluated_tokens"] for n in (1, 9))
        assert many == 5 * few  # ten times, not twice

    def test_says_that_a_machine_without_a_gpu_keeps_no_base_model_in_4_bits(
        self, client: TestClient, file_id: str
    ) -> None:
        plain, quantized = estimate(client, file_id), estimate(client, file_id, quantization="nf4")
        assert quantized["memory"]["base_weights_bytes"] < plain["memory"]["base_weights_bytes"]
        (problem,) = quantized["problems"]
        assert problem == "quantization needs a CUDA GPU, and the machine (this host) has none"

    def test_makes_no_job(self, client: TestClient, file_id: str) -> None:
        assert estimate(client, file_id)["object"] == "fine_tuning.estimate"
        assert client.get(JOBS).json()["data"] == []

    def test_says_what_it_rests_on_before_any_job_finished(self, client: TestClient, file_id: str) -> None:
        found = estimate(client, file_id)
        assert found["machine"] == {
            "device": "cpu",
            "memory_bytes": 2**33,
            "available_bytes": 2**32,
            "source": "this host",
        }
        assert found["basis"]["kind"] == "roofline"
        assert found["fits"] is True
        assert found["seconds"]["total"] == pytest.approx(sum(found["seconds"].values()) / 2)
        assert found["queue"] == {"place": 1, "seconds_ahead": 0}
        assert found["problems"] == []

    def test_learns_from_finished_jobs(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        job_id = client.post(JOBS, json=body(file_id)).json()["id"]
        finish(harness, job_id)
        found = estimate(client, file_id)
        assert (found["basis"]["kind"], found["basis"]["jobs"]) == ("jobs", [job_id])
        assert found["machine"]["source"] == f"job {job_id}"
        assert found["machine"]["memory_bytes"] == MEASURED.machine.memory_bytes
        assert found["seconds"]["loading"] == MEASURED.seconds.loading

    def test_adds_up_the_jobs_ahead(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        first, second = (client.post(JOBS, json=body(file_id)).json() for _ in range(2))
        with harness.database.write() as session:
            job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), NOW)
            assert job is not None
            assert job.id == first["id"]
            leases.heartbeat(session, leases.Lease(job.id, job.token), {"eta_s": 12.5})
        queue = estimate(client, file_id)["queue"]
        assert queue["place"] == 2
        assert queue["seconds_ahead"] == pytest.approx(12.5 + second["estimate"]["seconds"]["total"])

    def test_jobs_ahead_are_shared_out_among_the_workers_that_run_one(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        made = [client.post(JOBS, json=body(file_id)).json() for _ in range(3)]
        with harness.database.write() as session:
            for number, eta_s in enumerate((12.5, 4.0)):
                job = claims.claim(session, claims.WorkerIdentity(f"w{number}", "h", number), (BASE,), NOW)
                assert job is not None
                leases.heartbeat(session, leases.Lease(job.id, job.token), {"eta_s": eta_s})
        takes_s = made[2]["estimate"]["seconds"]["total"]
        queue = estimate(client, file_id)["queue"]
        # the worker that is free after 4 s takes the third job; once the other is free, what is left is shared
        shared_s = 4.0 + takes_s if 4.0 + takes_s <= 12.5 else (4.0 + 12.5 + takes_s) / 2
        assert queue == {"place": 2, "seconds_ahead": pytest.approx(shared_s)}

    def test_of_unlike_machines_any_may_take_the_job(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        large = MEASURED.machine.model_copy(update={"memory_bytes": 2**34})
        small = MEASURED.machine.model_copy(update={"memory_bytes": 2**20})
        made = []
        for machine in (large, small):
            made.append(client.post(JOBS, json=body(file_id)).json()["id"])
            finish(harness, made[-1], MEASURED.model_copy(update={"machine": machine}))
        of_one_host = estimate(client, file_id)
        assert (of_one_host["fits"], of_one_host["machine"]["source"]) == (False, f"job {made[1]}")
        elsewhere = harness.settings.model_copy(update={"database_url": "postgresql+psycopg://db/loramill"})
        with TestClient(replace(harness, settings=elsewhere).app(), base_url=LOCAL) as client_of_many:
            found = estimate(client_of_many, file_id)
            assert (found["fits"], found["machine"]["memory_bytes"]) == (True, 2**34)
            assert found["machine"]["source"] == f"job {made[0]}, on one of 2 unlike machines"
            assert found["basis"]["jobs"] == [made[0]]
            assert client_of_many.post(JOBS, json=body(file_id)).status_code == 200

    def test_does_not_wait_for_paused_jobs_nor_for_those_about_to_be(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        running, waiting = (client.post(JOBS, json=body(file_id)).json()["id"] for _ in range(2))
        with harness.database.write() as session:
            job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), NOW)
            assert job is not None
            leases.heartbeat(session, leases.Lease(running, job.token), {"eta_s": 12.5})
        for job_id in (running, waiting):
            client.post(f"{JOBS}/{job_id}/pause")
        assert estimate(client, file_id)["queue"] == {"place": 1, "seconds_ahead": 0}

    def test_a_job_ahead_without_an_estimate_leaves_the_wait_open(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        client.post(JOBS, json=body(file_id))
        with harness.database.write() as session:
            for job in jobs.list_page(session, after=None, limit=9)[0]:
                job.estimate = job.estimate_seconds = None
        assert estimate(client, file_id)["queue"] == {"place": 2, "seconds_ahead": None}

    def test_a_large_file_is_counted_on_a_sample(
        self, client: TestClient, file_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = estimate(client, file_id)
        monkeypatch.setattr(token_counts, "EXACT_EXAMPLES", 50)
        monkeypatch.setattr(token_counts, "WINDOWS", 8)
        monkeypatch.setattr(token_counts, "WINDOW_BYTES", 100)
        found = estimate(client, file_id)
        assert found == estimate(client, file_id)
        assert found["sampled"] is True
        assert found["read_examples"] < 50
        assert found["examples"] + found["held_out_examples"] == pytest.approx(100, abs=1)
        assert found["seen_tokens"] == pytest.approx(exact["seen_tokens"], rel=0.25)

    def test_an_unknown_architecture_leaves_memory_and_time_open(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        shapes = {name.replace("q_proj", "c_attn"): shape for name, shape in TINY_LLAMA.items()}
        write_shapes(harness.settings.base_models_folder / BASE, shapes, {"model_type": "strange"})
        found = estimate(client, file_id)
        assert (found["memory"], found["seconds"], found["fits"]) == (None, None, None)
        assert found["examples"] > 0
        assert any("'strange'" in problem for problem in found["problems"])

    def test_a_gpu_that_no_job_has_measured_yet_is_not_guessed(
        self, client: TestClient, file_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machines, "_NVIDIA_DRIVER", Path(__file__))
        found = estimate(client, file_id)
        assert (found["machine"]["memory_bytes"], found["seconds"], found["fits"]) == (None, None, None)
        assert found["memory"]["base_weights_bytes"] > 0
        assert any("GPU" in problem for problem in found["problems"])

    def test_an_unknown_field_is_refused(self, client: TestClient, file_id: str) -> None:
        response = client.post(ROUTE, json=body(file_id, packing=True))
        assert (response.status_code, response.json()["error"]["param"]) == (400, "packing")


class TestRefusal:
    @pytest.fixture(autouse=True)
    def a_small_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**28, available=2**27))

    def test_a_job_that_cannot_fit_is_refused_with_the_numbers(self, client: TestClient, file_id: str) -> None:
        response = client.post(JOBS, json=body(file_id))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "job_does_not_fit")
        assert "0.27 GB (known from this host)" in error["message"]
        for named in ("base weights", "adapter", "activations of the longest example", "logits", "max_length"):
            assert named in error["message"]
        assert client.get(JOBS).json()["data"] == []

    def test_its_estimate_is_given_all_the_same(self, client: TestClient, file_id: str) -> None:
        found = estimate(client, file_id)
        assert found["fits"] is False
        assert found["memory"]["least_bytes"] > found["machine"]["memory_bytes"]


class TestCertainFailures:
    def test_an_example_that_cannot_be_rendered_is_named_before_the_job_is_made(self, client: TestClient) -> None:
        turns = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "a"}]
        good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        file_id = upload(client, lines({"messages": good}, {"messages": turns})).json()["id"]
        response = client.post(JOBS, json=body(file_id))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "training_file"
        assert "line 2" in response.json()["error"]["message"]

    def test_an_over_length_example_where_the_job_wants_an_error(self, client: TestClient) -> None:
        file_id = upload(client, lines({"prompt": "p", "completion": "c" * 50})).json()["id"]
        response = client.post(JOBS, json=body(file_id, over_length="error", max_length=20))
        assert response.status_code == 400
        assert "line 1 has 52 tokens" in response.json()["error"]["message"]

    def test_a_file_of_which_nothing_is_left(self, client: TestClient) -> None:
        file_id = upload(client, lines({"prompt": "p", "completion": "c" * 50})).json()["id"]
        response = client.post(JOBS, json=body(file_id, max_length=20))
        assert response.status_code == 400
        assert "1 are over max_length" in response.json()["error"]["message"]

    def test_a_target_module_that_the_base_model_has_not(self, client: TestClient, file_id: str) -> None:
        response = client.post(JOBS, json=body(file_id, lora={"target_modules": ["c_attn"]}))
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "lora.target_modules")
        assert "q_proj" in error["message"]


class TestJob:
    def test_keeps_the_estimate_as_it_was(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        found = estimate(client, file_id)
        job = client.post(JOBS, json=body(file_id)).json()
        assert job["estimate"] == {name: found[name] for name in found if name not in ("object", "model")}
        finish(harness, job["id"])
        assert client.get(f"{JOBS}/{job['id']}").json()["estimate"] == job["estimate"]

    def test_shows_what_it_took_beside_the_estimate(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = client.post(JOBS, json=body(file_id)).json()["id"]
        finish(harness, job_id)
        job = client.get(f"{JOBS}/{job_id}").json()
        assert job["measured"] == MEASURED.model_dump(mode="json")
        shared = set(job["measured"]) & set(job["estimate"])
        assert {"examples", "seen_tokens", "trained_tokens", "steps", "seconds", "peak_memory_bytes"} <= shared
        assert set(job["measured"]["seconds"]) == set(job["estimate"]["seconds"])

    def test_is_made_without_an_estimate_where_none_can_be_given(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        (harness.settings.base_models_folder / BASE / "tokenizer.json").write_text("{")
        imported = harness.settings.base_models_folder / BASE / "loramill.json"
        imported.write_text(imported.read_text().replace("0" * 64, "1" * 64))  # another model, so nothing is cached
        response = client.post(JOBS, json=body(file_id))
        assert (response.status_code, response.json()["estimate"]) == (200, None)
        assert client.post(ROUTE, json=body(file_id)).json()["error"]["code"] == "base_model_not_ready"

    def test_expects_its_end_by_the_estimate_before_its_first_step(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job = client.post(JOBS, json=body(file_id)).json()
        assert job["estimated_finish"] is None
        later = 2 * 10**9
        with harness.database.write() as session:
            claimed = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), later)
            assert claimed is not None
            assert claimed.status is JobStatus.RUNNING
        running = client.get(f"{JOBS}/{job['id']}").json()
        assert running["estimated_finish"] == later + round(job["estimate"]["seconds"]["total"])


WEIGHTLESS = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}


class TestNothingToScore:
    @pytest.mark.parametrize("fields", [{"early_stopping_patience": 1}, {"load_best_model_at_end": True}])
    def test_a_job_that_goes_by_the_loss_of_nothing_is_refused(
        self, client: TestClient, file_id: str, fields: dict[str, Any]
    ) -> None:
        scored = upload(client, lines(WEIGHTLESS)).json()["id"]
        for path in (ROUTE, JOBS):
            response = client.post(path, json=body(file_id, validation_file=scored, **fields))
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, *fields)
            assert "none of their tokens has a weight" in error["message"]

    @pytest.mark.parametrize("fields", [{"early_stopping_patience": 1}, {"load_best_model_at_end": True}])
    def test_a_job_of_one_prompt_of_which_none_can_be_held_out_is_refused(
        self, client: TestClient, fields: dict[str, Any]
    ) -> None:
        rows = [{"prompt": prompt, "completion": "c"} for prompt in ("one prompt", "One  PROMPT")]
        alike = upload(client, lines(*rows)).json()["id"]
        for path in (ROUTE, JOBS):
            response = client.post(path, json=body(alike, **fields))
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, *fields)
            assert "no example is held out" in error["message"]

    def test_a_job_that_does_not_go_by_it_is_made(self, client: TestClient, file_id: str) -> None:
        scored = upload(client, lines(WEIGHTLESS)).json()["id"]
        assert client.post(JOBS, json=body(file_id, validation_file=scored)).status_code == 200

    def test_a_file_that_is_only_sampled_is_left_to_the_trainer(
        self, client: TestClient, file_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_counts, "EXACT_EXAMPLES", 1)
        scored = upload(client, lines(*[WEIGHTLESS] * 3)).json()["id"]
        assert estimate(client, file_id, validation_file=scored, load_best_model_at_end=True)["sampled"]


def test_a_sample_that_holds_nothing_to_train_on_tells_neither_time_nor_memory(
    client: TestClient, file_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counts, "EXACT_EXAMPLES", 1)
    found = estimate(client, file_id, validation_file=file_id)
    assert found["memory"] is not None
    long = upload(client, lines(*[{"prompt": "p" * 20, "completion": "c"}] * 3)).json()["id"]
    found = estimate(client, long, validation_file=file_id, max_length=8)
    assert found["seconds"] is found["memory"] is found["fits"] is None
    assert "no example of the sample would be trained on, so neither time nor memory is known" in found["problems"]
