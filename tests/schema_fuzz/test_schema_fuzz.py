"""The API's description against a real deployment: what schemathesis makes of it, and what it says of each answer.

With the key and without, as a user starts the stack: SmolLM2's engine answers, a worker trains what is asked for.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest

from tests.harness.servers.stack import Stack, eventually, running_stack, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BASE: Final = "smollm2-135m-instruct"
KEY: Final = "a-key-of-sixteen-characters"
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")
Told = dict[str, Any]
ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("key", [None, KEY], ids=["without-a-key", "with-a-key"])
def test_no_answer_contradicts_the_description(tmp_path: Path, smollm2_folder: Path, key: str | None) -> None:
    environ = {} if key is None else {"LORAMILL_API_KEY": key}
    with running_stack(tmp_path / "home", LORAMILL_BASE_MODELS=BASE, **environ) as stack:
        names = train_some(stack, tmp_path, key or "unused")
        report = fuzz(stack, tmp_path, key, names)
        assert stack.is_ready()
    assert report["failures"] == report["errors"] == []
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}
    assert report["operations"]["tested"] == report["operations"]["total"] > 30


def train_some(stack: Stack, folder: Path, key: str) -> dict[str, str]:
    """Have the stack hold a file, a job with events and checkpoints, a fine-tuned model, and an evaluation of it.

    And an export and an experiment that have ended. What the hooks have to name is given, by variables of the
    environment.
    """
    path = write_examples(folder / "train.jsonl", count=40)
    with stack.client(key) as client:
        with path.open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=file.id,
            hyperparameters={"n_epochs": 1},
            extra_body={"evaluation": {"metrics": ["nats_per_token", "exact_match"]}},
        )
        eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded", "a trained model", 300)
        trained = client.fine_tuning.jobs.retrieve(job.id).to_dict()
        evaluation = f"/evaluations/{trained['evaluation_id']}"
        eventually(lambda: client.get(evaluation, cast_to=Told)["status"] == "succeeded", "an evaluation", 300)
        asked = {
            "job": {"model": BASE, "training_file": file.id},
            "arms": [{"hyperparameters": {"n_epochs": 1}}],
            "seeds": 1,
        }
        experiment_id = client.post("/experiments", cast_to=Told, body=asked)["id"]
        experiment = f"/experiments/{experiment_id}"
        eventually(lambda: client.get(experiment, cast_to=Told)["status"] == "succeeded", "an experiment", 600)
        model = str(trained["fine_tuned_model"])
        export_id = client.post(f"/models/{quote(model, safe='')}/exports", cast_to=Told, body={"format": "peft"})["id"]
        export = f"/models/exports/{export_id}"
        eventually(lambda: client.get(export, cast_to=Told)["status"] == "succeeded", "an export", 300)
        names = {"FUZZED_EXPERIMENT": experiment_id, "FUZZED_BASE": BASE, "FUZZED_EXPORT": export_id}
        return names | {"FUZZED_JOB": job.id, "FUZZED_MODEL": model}


def fuzz(stack: Stack, folder: Path, key: str | None, names: dict[str, str]) -> dict[str, Any]:
    """Run schemathesis, and give its report; a run that found something fails with all that it said."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += ["--report", "json", "--report-json-path", str(report)]
    command += [] if key is None else ["--header", f"Authorization: Bearer {key}"]
    command += [f"{stack.url}/openapi.json"]
    environ = os.environ | {"COLUMNS": "200", "FUZZED_URL": stack.url, "FUZZED_KEY": key or "unused", **names}
    # made when it is first asked for; the command waits 10 seconds for it
    httpx2.get(f"{stack.url}/openapi.json", timeout=120)
    # in the project's folder, where the hooks are found
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found
