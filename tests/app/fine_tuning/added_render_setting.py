"""Run by `test_added_render_setting` in a copy of the project that has one more render setting, ``shout``.

It is so many marks of exclamation behind a completion, so that each surface can be seen to use it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.jobs.spec import JobSpec
from core.store import jobs
from tests.app.cli.command import loramill
from tests.app.conftest import BASE, ApiHarness, upload
from tests.worker.training.run_folders import RecordingReporter, make_job, never_stop, write_run
from worker.trainer_process.run_folder import read_spec
from worker.training.data.shared_examples import SharedExamples
from worker.training.preparation import load_run_data

PAIRS = [{"prompt": f"question {n}", "completion": " A"} for n in range(20)]
LINES = "".join(f"{json.dumps(pair)}\n" for pair in PAIRS).encode()
SHOUT = 3


@pytest.fixture
def shouted(client: TestClient) -> dict[str, Any]:
    """A job's body that asks for the setting."""
    return {"model": BASE, "training_file": upload(client, LINES).json()["id"], "seed": 1, "shout": SHOUT}


def post(client: TestClient, path: str, body: dict[str, Any]) -> Any:
    response = client.post(f"/v1/fine_tuning/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_job_takes_it_within_its_bounds_keeps_it_flat_and_echoes_it(
    client: TestClient, harness: ApiHarness, shouted: dict[str, Any]
) -> None:
    job = post(client, "jobs", shouted)
    assert job["shout"] == SHOUT
    with harness.database.read() as session:
        stored = jobs.get(session, job["id"]).spec
    assert stored["shout"] == JobSpec.model_validate(stored).shout == SHOUT  # type: ignore[attr-defined]  # of the copy
    refused = client.post("/v1/fine_tuning/jobs", json=shouted | {"shout": 10})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "shout")


def test_the_preview_renders_by_it(client: TestClient, shouted: dict[str, Any]) -> None:
    assert post(client, "preview", shouted)["examples"][0]["text"] == "question 0 A!!!<|endoftext|>"


def test_the_estimate_counts_by_it(client: TestClient, shouted: dict[str, Any]) -> None:
    loud, quiet = (post(client, "estimates", shouted | {"shout": shout}) for shout in (SHOUT, 0))
    epochs = 3
    assert loud["seen_tokens"] - quiet["seen_tokens"] == SHOUT * loud["examples"] * epochs


def test_the_report_counts_by_it(client: TestClient, shouted: dict[str, Any]) -> None:
    url = f"/v1/files/{shouted['training_file']}/report"
    counted = client.get(url, params={"model": BASE, "shout": SHOUT}).json()["statistics"]["trained"]
    assert counted["completion_tokens"] == len(PAIRS) * (2 + SHOUT + 1)
    assert client.get(url, params={"model": BASE, "shout": 10}).json()["error"]["param"] == "shout"


def test_the_commands_have_it(harness: ApiHarness) -> None:
    home = harness.settings.home
    (home / "train.jsonl").write_bytes(LINES)
    assert (
        "A!!!"
        in json.loads(loramill(home, "preview", "train.jsonl", "--shout", "3", "--json").stdout)["examples"][0]["text"]
    )
    linted = json.loads(loramill(home, "lint", "train.jsonl", "--shout", "3", "--json").stdout)
    assert linted["statistics"]["trained"]["completion_tokens"] == len(PAIRS) * (2 + SHOUT + 1)
    for command in ("preview", "lint"):
        assert loramill(home, command, "train.jsonl", "--shout", "10").returncode == 2
        assert "How loud answers end." in loramill(home, command, "--help", columns=200).stdout


def test_the_trainer_renders_by_it(tmp_path: Path, harness: ApiHarness) -> None:
    base = harness.settings.base_models_folder / BASE
    assert make_job(shout=SHOUT).model_dump()["shout"] == SHOUT
    folder = write_run(tmp_path / "run", base, PAIRS, shout=SHOUT)
    data = load_run_data(folder, read_spec(folder), RecordingReporter(), never_stop, SharedExamples())
    assert bytes(data.training[0].ids_T[-(SHOUT + 1) : -1].tolist()) == b"!!!"
