"""A process that is stopped while it holds SQLite's lock."""

import sys
import time
from pathlib import Path

from tests.faults.deployment import FaultyDeployment, deployed
from tests.faults.failpoints import FREEZE_BEFORE_COMMIT
from tests.faults.invariants import Figures, count

SUPERVISED = "tests.faults.supervised"


def frozen_writer(home: Path) -> Figures:
    """A worker stops itself between its BEGIN and its COMMIT, under the supervisor of `loramill up`."""
    began_s = time.monotonic()
    with deployed(home) as deployment:
        stack = deployment.start("stack", [sys.executable, "-m", SUPERVISED])
        deployment.wait_for(deployment.is_alive, "an answer of the API", "stack")
        job_id = deployment.create_job(deployment.upload(steps=60, step_s=0.1, checkpoint_every=5))
        deployment.wait_for(lambda: deployment.steps_of(job_id) >= 12, "the middle of the job", "stack")

        deployment.arm(FREEZE_BEFORE_COMMIT)
        deployment.wait_for(lambda: not deployment.is_armed(FREEZE_BEFORE_COMMIT), "the freeze", "stack")
        frozen_s = time.monotonic()
        deployment.wait_for(lambda: _says_locked(deployment), "readiness that tells of the lock", "stack")
        refused = deployment.client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": "file-none"})
        assert refused.status_code in (400, 503), refused.text
        deployment.wait_for(lambda: deployment.job(job_id).token == 2, "the next attempt", "stack")
        taken_s = time.monotonic() - frozen_s
        deployment.wait_for_status([job_id], "succeeded")
        deployment.wait_for(lambda: deployment.client.get("/readyz").json()["parts"]["database"]["ok"], "readiness")
        stack.terminate()
        assert stack.wait(60) == 0
        first, second = deployment.attempts(job_id)
        assert (first.outcome, second.outcome) == ("lost", "succeeded")
        log = deployment.log("stack").read_text()
        # the trainer goes on beside its frozen worker, and may have ended before that is killed
        assert second.resumed_from_step or "result of an earlier attempt found" in log
        assert "kept others from writing the database" in log
        assert "; killed" in log
        return count(deployment, [job_id], began_s).noting(f"taken over {taken_s:.0f} s after the freeze")


def _says_locked(deployment: FaultyDeployment) -> bool:
    response = deployment.client.get("/readyz")
    part = response.json()["parts"]["database"]
    return response.status_code == 503 and "takes no writes" in (part["detail"] or "")
