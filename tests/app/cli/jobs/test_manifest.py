"""`loramill manifest`, `card` and `rerun` against an API on a socket."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from core.store.queue import claims
from tests.app.cli.command import Done, loramill
from tests.app.conftest import BASE, ApiHarness, serving
from tests.app.fine_tuning.created import create
from tests.app.fine_tuning.succeeded import NEW, RESULT, succeed
from tests.harness.finished_job import finish


@dataclass
class ServedApi:
    """An API on a socket, as the commands reach it."""

    home: Path
    url: str

    def run(self, *arguments: str | Path) -> Done:
        return loramill(self.home, *arguments, "--url", self.url, columns=120)


@pytest.fixture
def served(harness: ApiHarness) -> Iterator[ServedApi]:
    with capture_logs(), serving(harness.app()) as url:
        yield ServedApi(harness.settings.home, url)


def test_a_manifest_is_shown_with_the_origin_of_each_setting(
    served: ServedApi, client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    job_id = succeed(client, harness, file_id, NEW, seed=7)
    lines = served.run("manifest", job_id).stdout.splitlines()
    assert lines[0].split() == ["job", f"{job_id},", "succeeded"]
    assert ["seed", "7", "you"] in [line.split() for line in lines]
    assert any(line.startswith("learning_rate ") and "the base model's own rate" in line for line in lines)
    assert lines[-1] == "from step 0 on here (Linux): torch 2.0"
    told = json.loads(served.run("manifest", job_id, "--json").stdout)
    assert told == client.get(f"/v1/fine_tuning/jobs/{job_id}/manifest").json()


def test_what_was_not_recorded_is_said_to_be(
    served: ServedApi, client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    shown = served.run("manifest", succeed(client, harness, file_id, RESULT)).stdout
    assert ["tokenizer", "sha256", "not", "recorded"] in [line.split() for line in shown.splitlines()]


def test_a_job_that_there_is_not_is_said_in_a_sentence(served: ServedApi) -> None:
    done = served.run("manifest", "ftjob-x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such fine-tuning job: ftjob-x" in done.stderr


def test_a_card_is_printed_as_it_is(served: ServedApi, client: TestClient, harness: ApiHarness, file_id: str) -> None:
    succeed(client, harness, file_id, NEW)
    assert served.run("card", "ft:x").stdout == client.get("/v1/models/ft:x/card").text


class TestRerun:
    """A rerun whose worker is the test."""

    def end(self, harness: ApiHarness, verdict: dict[str, Any]) -> threading.Thread:
        """Have the next rerun that is queued succeed with this verdict, if one comes within half a minute."""
        deadline_s = time.monotonic() + 30

        def work() -> None:
            while time.monotonic() < deadline_s:
                with harness.database.write() as session:
                    job = claims.claim(session, claims.WorkerIdentity("w", "h", 1), (BASE,), 20)
                    if job is not None:
                        finish(session, job.id, now=21, result=NEW | {"rerun": verdict}, name="ft:y")
                        return
                time.sleep(0.05)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    @pytest.mark.parametrize(
        ("same", "why", "code", "sentence"),
        [
            (True, [], 0, "ft:y: its weights are the same bits as those of {}"),
            (False, [{"name": "torch", "this": "2.1", "other": "2.0"}], 1, "torch was 2.0, is 2.1"),
            (False, [], 1, "nothing that is known differs"),
            (None, [], 1, "cannot be told, as those of {} are gone"),
        ],
    )
    def test_ends_as_the_bits_are(
        self,
        served: ServedApi,
        client: TestClient,
        harness: ApiHarness,
        file_id: str,
        monkeypatch: pytest.MonkeyPatch,
        same: bool | None,
        why: list[dict[str, str]],
        code: int,
        sentence: str,
    ) -> None:
        monkeypatch.setattr("app.cli.jobs.waiting.POLL_S", 0.05)
        job_id = succeed(client, harness, file_id, NEW)
        worker = self.end(harness, {"same_weights": same, "may_be_why": why, "unrecorded": False})
        done = served.run("rerun", job_id)
        worker.join()
        assert done.returncode == code
        assert sentence.format(job_id) in done.stdout
        assert f"makes {job_id} again" in done.stderr

    def test_what_cannot_be_made_again_is_said(self, served: ServedApi, client: TestClient, file_id: str) -> None:
        done = served.run("rerun", create(client, file_id).json()["id"])
        assert done.returncode == 1
        assert "has not succeeded (queued)" in done.stderr
