"""Jobs that have succeeded, with what their trainers told and with what those of earlier versions did not."""

from typing import Any, Final

from starlette.testclient import TestClient

from core.store.queue import claims
from tests.app.conftest import BASE, ApiHarness
from tests.app.fine_tuning.created import create
from tests.harness.fake_trainer import MEASURED, provenance_of
from tests.harness.finished_job import finish

RESULT: Final[dict[str, Any]] = {
    "steps": 4,
    "adapter_step": 3,
    "metrics": {"train_loss": 0.5},
    "measured": MEASURED.model_dump(mode="json"),
}
NEW: Final = RESULT | {
    "weights_sha256": "5" * 64,
    "provenance": provenance_of({"torch": "2.0"}).model_dump(mode="json"),
}


def succeed(
    client: TestClient, harness: ApiHarness, file_id: str, result: dict[str, Any], *, name: str = "ft:x", **fields: Any
) -> str:
    """Have a job succeed with this result, and a model of this name; give its id."""
    job_id = str(create(client, file_id, **fields).json()["id"])
    with harness.database.write() as session:
        assert claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 10) is not None
        finish(session, job_id, now=13, result=result, name=name)
    return job_id
