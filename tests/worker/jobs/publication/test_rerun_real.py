"""A job that the real trainer ran, made again on this machine: the same bits."""

import json
import shutil

import pytest

from core.jobs.spec import FileRef
from core.jobs.status import JobStatus
from core.provenance.record import PROVENANCE, WEIGHTS_SHA256, Provenance
from core.store import files
from core.store.files import NewFile
from tests.harness.models.tiny_models import write_tiny_phi
from tests.worker.conftest import BASE_MODEL, NOW, Home, make_spec
from tests.worker.jobs.running import run_on
from worker.trainer_process.process import COMMAND

EXAMPLES = [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a in range(5) for b in range(5)]


@pytest.fixture
def trained(home: Home) -> str:
    """Id of a job that the real trainer has run on a tiny model."""
    folder = home.settings.base_models_folder / BASE_MODEL
    shutil.rmtree(folder)
    write_tiny_phi(folder)
    blob = home.blobs.put_bytes("".join(json.dumps(line) + "\n" for line in EXAMPLES).encode())
    new = NewFile(
        "tests", "e.jsonl", "fine-tune", blob, "jsonl", example_format="prompt_completion", examples=len(EXAMPLES)
    )
    with home.database.write() as session:
        file = files.create(session, new, NOW)
        ref = FileRef(id=file.id, sha256=blob.sha256, examples=len(EXAMPLES), file_type="jsonl")
    job_id = home.queue_spec(make_spec(ref).model_copy(update={"batch_size": 5, "n_epochs": 2}))
    run_on(home.runtime(trainer_command=COMMAND))
    assert home.job(job_id).status is JobStatus.SUCCEEDED
    return job_id


@pytest.mark.slow
def test_a_rerun_on_the_same_machine_gives_the_same_bits(home: Home, trained: str) -> None:
    again = home.queue_again(trained)
    run_on(home.runtime(trainer_command=COMMAND))
    one, other = home.job(trained).result, home.job(again).result
    assert one is not None
    assert other is not None
    assert other["rerun"] == {"same_weights": True, "may_be_why": [], "unrecorded": False}
    assert one[WEIGHTS_SHA256] == other[WEIGHTS_SHA256]
    assert one[PROVENANCE] == other[PROVENANCE]
    told = Provenance.of_result(one)
    assert told is not None
    assert told.stints[0].environment["torch"]


@pytest.mark.slow
def test_what_the_trainer_computes_otherwise_is_named(
    home: Home, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Provenance.of_result(home.job(trained).result)
    assert told is not None
    before = told.stints[0].environment["threads"]
    now = "2" if before == "1" else "1"
    monkeypatch.setenv("OMP_NUM_THREADS", now)
    again = home.queue_again(trained)
    run_on(home.runtime(trainer_command=COMMAND))
    other = home.job(again).result
    assert other is not None
    assert {"name": "threads", "this": now, "other": before} in other["rerun"]["may_be_why"]
