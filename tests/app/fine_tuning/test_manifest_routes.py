"""The manifest of a job over HTTP: what it says of a job that succeeded, of one that waits, and of an old one."""

import hashlib
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import BASE, EXAMPLES, LEARNING_RATE, ApiHarness
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.succeeded import NEW, RESULT, succeed


def manifest_of(client: TestClient, job_id: str) -> Any:
    answer = client.get(f"/v1/fine_tuning/jobs/{job_id}/manifest")
    assert answer.status_code == 200
    return answer.json()


def test_it_names_data_settings_base_machines_and_what_came_of_them(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    job_id = succeed(client, harness, file_id, NEW, seed=7, hyperparameters={"n_epochs": 1})
    manifest = manifest_of(client, job_id)
    assert manifest["data"]["training_file"]["sha256"] == hashlib.sha256(EXAMPLES).hexdigest()
    assert manifest["data"]["rendered"] == {"sha256": "1" * 64, "examples": 1, "tokens": 8}
    assert (manifest["data"]["order"]["version"], manifest["data"]["order"]["seed"]) == (2, 7)
    assert manifest["data"]["order"]["held_out_version"] == 3
    assert manifest["settings"]["seed"] == {"value": 7, "origin": "you", "why": None}
    assert manifest["settings"]["n_epochs"]["origin"] == "you"
    assert manifest["settings"]["learning_rate"]["value"] == LEARNING_RATE
    assert manifest["settings"]["learning_rate"]["origin"] == "auto"
    assert manifest["base_model"] == {
        "name": BASE,
        "fingerprint": "0" * 64,
        "tokenizer_sha256": "3" * 64,
        "chat_template_sha256": None,
    }
    assert [stint["environment"] for stint in manifest["stints"]] == [{"torch": "2.0"}]
    assert manifest["measured"] == RESULT["measured"]
    assert manifest["adapter"] == {
        "name": "ft:x",
        "manifest_sha256": "b" * 64,
        "weights_sha256": "5" * 64,
        "step": 3,
    }
    assert manifest["results"] == {
        "trained_on": "9 tokens",
        "trained_tokens": 9,
        "steps": 4,
        "metrics": {"train_loss": 0.5},
        "evaluation_id": None,
    }
    assert manifest["parents"] == {"continue_from": None, "experiment": None, "rerun_of": None}


def test_what_no_trainer_told_is_null(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    old = manifest_of(client, succeed(client, harness, file_id, RESULT))
    assert (old["stints"], old["data"]["rendered"], old["adapter"]["weights_sha256"]) == (None, None, None)
    assert old["data"]["order"] | {"seed": 0} == dict.fromkeys(old["data"]["order"]) | {"seed": 0}
    assert (old["base_model"]["tokenizer_sha256"], old["results"]["steps"]) == (None, 4)


def test_a_job_that_waits_has_its_settings_and_no_results(client: TestClient, file_id: str) -> None:
    manifest = manifest_of(client, create(client, file_id).json()["id"])
    assert (manifest["status"], manifest["adapter"], manifest["results"]) == ("queued", None, None)
    assert manifest["settings"]["batch_size"]["value"] == 12


def test_it_names_the_job_of_the_adapter_that_it_goes_on_from(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    earlier = succeed(client, harness, file_id, NEW)
    manifest = manifest_of(client, create(client, file_id, continue_from="ft:x").json()["id"])
    assert manifest["parents"]["continue_from"] == {"name": "ft:x", "adapter_sha256": "b" * 64, "job": earlier}


@pytest.mark.parametrize("path", ["manifest"])
def test_a_missing_job_is_404(client: TestClient, path: str) -> None:
    answer = client.get(f"/v1/fine_tuning/jobs/ftjob-x/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
