"""An estimate from the API held to what the real trainer then does with the same specification."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.estimates.estimate import Measured
from core.jobs.spec import JobSpec
from core.store import jobs
from tests.app.conftest import BASE, ApiHarness, upload
from tests.harness.models.tiny_models import write_tiny_phi
from tests.worker.training.run_folders import SUMS, RecordingReporter, never_stop
from worker.trainer_process.messages import Finished
from worker.trainer_process.run_folder import TRAINING_FILE, VALIDATION_FILE, RunSpec, write_spec
from worker.training.together import run

FOLDED = [line | {"completion": line["completion"] + "!" * 60} for line in SUMS[:3]]  # over max_length
EXAMPLES = "".join(json.dumps(line) + "\n" for line in (*SUMS, *FOLDED)).encode()


@pytest.fixture(autouse=True)
def a_real_base(harness: ApiHarness) -> None:
    """Put a Phi that can be trained where the API's tests have one of zeros."""
    folder = harness.settings.base_models_folder / BASE
    for file in folder.iterdir():
        file.unlink()
    write_tiny_phi(folder)
    entry = BaseModelEntry(name=BASE, source=Folder(path=folder), dtype="float32", learning_rate=1e-3)
    harness.registry = Registry(harness.settings.base_models_folder, (entry,))


def train(harness: ApiHarness, job_id: str, folder: Path) -> Measured:
    """Run the trainer on a queued job in this process, as the worker would have it run."""
    with harness.database.read() as session:
        spec = JobSpec.model_validate(jobs.get(session, job_id).spec)
    folder.mkdir()
    harness.blobs.fetch(spec.training_file.sha256, folder / TRAINING_FILE)
    if spec.validation_file is not None:
        harness.blobs.fetch(spec.validation_file.sha256, folder / VALIDATION_FILE)
    base = harness.settings.base_models_folder / BASE
    fields: dict[str, Any] = {
        "job_id": job_id,
        "token": 1,
        "job": spec,
        "base_model_folder": str(base),
        "base_model_fingerprint": json.loads((base / "loramill.json").read_text())["fingerprint"],
        "base_model_dtype": "float32",
        "validation_file": None if spec.validation_file is None else VALIDATION_FILE,
        "resume_from": (),
        "adapter_name": "ft:tiny:local::1",
    }
    write_spec(folder, RunSpec.model_validate(fields))
    reporter = RecordingReporter()
    run(folder, reporter, never_stop)
    (finished,) = reporter.of(Finished)
    return finished.measured


@pytest.mark.parametrize("with_validation", [False, True])
def test_the_trainer_does_what_was_estimated(
    client: TestClient,
    harness: ApiHarness,
    tmp_path: Path,
    with_validation: bool,
) -> None:
    file_id = upload(client, EXAMPLES).json()["id"]
    body = {
        "model": BASE,
        "training_file": file_id,
        "validation_file": file_id if with_validation else None,
        "hyperparameters": {"n_epochs": 2, "batch_size": 5},
        "max_length": 60,
        "prompt_loss_weight": 0.1,
        "seed": 3,
    }
    response = client.post("/v1/fine_tuning/jobs", json=body)
    assert response.status_code == 200, response.text
    estimate = response.json()["estimate"]

    measured = train(harness, response.json()["id"], tmp_path / "run")

    assert estimate["dropped_examples"] == len(FOLDED)
    counts = ("examples", "held_out_examples", "seen_tokens", "trained_tokens", "evaluated_tokens", "steps")
    assert {name: getattr(measured, name) for name in counts} == {name: estimate[name] for name in counts}
    assert measured.held_out_examples > 0
    assert measured.token_budget == estimate["token_budget"]
    assert measured.machine.device == estimate["machine"]["device"]
    assert measured.machine.memory_bytes == estimate["machine"]["memory_bytes"]
    assert measured.resumed_from_step is None


def test_prompts_are_drawn_alike_where_they_are_cut(client: TestClient, harness: ApiHarness, tmp_path: Path) -> None:
    lines = [{"prompt": f"{n:04} and then the same end", "completion": "c" * (1 + n % 5)} for n in range(60)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    body = {
        "model": BASE,
        "training_file": upload(client, content).json()["id"],
        "hyperparameters": {"n_epochs": 1, "batch_size": 16},
        "max_length": 12,
        "over_length": "truncate_prompt",
        "seed": 3,
    }
    job = client.post("/v1/fine_tuning/jobs", json=body).json()
    measured = train(harness, job["id"], tmp_path / "run")
    assert 0 < measured.held_out_examples == job["estimate"]["held_out_examples"]
    assert measured.evaluated_tokens == job["estimate"]["evaluated_tokens"]


def test_what_a_run_took_is_split_without_rest(
    client: TestClient,
    harness: ApiHarness,
    tmp_path: Path,
) -> None:
    file_id = upload(client, EXAMPLES).json()["id"]
    body = {"model": BASE, "training_file": file_id, "seed": 3, "hyperparameters": {"n_epochs": 1}}
    job_id = client.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    measured = train(harness, job_id, tmp_path / "run")
    parts = measured.seconds.model_dump(exclude={"total", "starting"})
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) + measured.seconds.starting == pytest.approx(measured.seconds.total)
    assert measured.peak_memory_bytes > 2**20
