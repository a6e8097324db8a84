"""Moves that a gate allows or not: by an ended evaluation of the very adapter, with the interval of what failed."""

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.evaluations.result import make_result
from core.evaluations.scores import ModelScores, RowScores
from core.evaluations.spec import JudgedModel
from core.jobs.attempt import AttemptEnd
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef, FileRef
from core.store import files, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from tests.app.aliases.moving import DIGESTS, FIRST, NAME, PATH, SECOND, publish_two, put, refusal
from tests.app.conftest import BASE, ApiHarness
from tests.harness.evaluation_specs import make_evaluation_spec

ROWS = 120
RIGHT = {BASE: 10, FIRST: 60, SECOND: 110}  # of so many rows


@pytest.fixture(autouse=True)
def versions(harness: ApiHarness, client: TestClient) -> None:
    publish_two(harness)
    put(client, FIRST)


def scores(model: str) -> ModelScores:
    rows = [
        RowScores(line + 1, f"{line:016x}", 1, {"exact_match": float(line < RIGHT[model]), "chrf": 0.5})
        for line in range(ROWS)
    ]
    return ModelScores(model, rows)


def judged(model: str) -> JudgedModel:
    adapter = None if model == BASE else AdapterRef(name=model, adapter_sha256=DIGESTS[model])
    return JudgedModel(name=model, adapter=adapter)


def evaluate(
    harness: ApiHarness, file_id: str, models: Sequence[str], *, gates: Sequence[str] = (), is_ended: bool = True
) -> str:
    """Put an evaluation into the database as a worker ends it; give its id."""
    with harness.database.write() as session:
        file = files.get(session, file_id)
        spec = make_evaluation_spec(
            FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type),
            models=tuple(map(judged, models)),
            lines=tuple(range(1, ROWS + 1)),
            metrics=("exact_match", "chrf"),
            gates=tuple(gates),
        )
        job = jobs.create(session, NewJob("someone", spec, {}, "e" * 64), 1)
        if not is_ended:
            return job.id
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), 2, kind=JobKind.EVALUATION)
        assert claimed is not None
        result = make_result(spec, [scores(model) for model in models], lambda: None).model_dump(mode="json")
        told = result | {"result_files": ["file-x"]}
        leases.conclude(session, Lease(job.id, claimed.token), JobEvent("done"), told, AttemptEnd(), 3)
        return job.id


def gated(client: TestClient, model: str, evaluation: str, *thresholds: str, **fields: Any) -> Any:
    return put(client, model, gate={"evaluation": evaluation, "thresholds": thresholds}, **fields)


def test_a_move_that_passes_is_made_and_the_history_says_by_what(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    evaluation = evaluate(harness, file_id, [FIRST, SECOND])
    moved = gated(client, SECOND, evaluation, "exact_match >= 0.8", f"exact_match better than {NAME}")
    assert moved.status_code == 200, moved.json()
    newest = client.get(f"{PATH}/{NAME}").json()["history"][0]
    assert newest["after"]["model"] == SECOND
    assert newest["gate"]["evaluation"] == evaluation
    threshold, comparison = newest["gate"]["answers"]
    assert (threshold["model"], threshold["gate"]) == (SECOND, "exact_match >= 0.8")
    assert threshold["interval"]["low"] >= 0.8
    assert comparison["gate"] == f"exact_match better than {FIRST}"  # what the alias stood for


def test_a_move_that_fails_says_which_threshold_with_its_interval_and_leaves_the_alias(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    evaluation = evaluate(harness, file_id, [FIRST, SECOND])
    harness.engine.warmed.clear()
    refused = gated(client, SECOND, evaluation, "exact_match >= 0.8", "exact_match >= 0.99", "exact_match >= 0.9")
    status, param, said = refusal(refused)
    assert (status, param, refused.json()["error"]["code"]) == (409, "gate", "gate_failed")
    assert (
        f"{NAME} was not moved: {SECOND}: Failed: exact_match >= 0.99 is not reached, with 0.917, 95 % interval" in said
    )
    assert "exact_match >= 0.9 is not certain" in said
    assert ">= 0.8" not in said
    alias = client.get(f"{PATH}/{NAME}").json()
    assert (alias["model"], len(alias["history"])) == (FIRST, 1)
    assert harness.engine.warmed == []


def test_without_thresholds_the_evaluations_own_gates_count(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    other = "exact_match better than " + FIRST
    evaluation = evaluate(harness, file_id, [BASE, FIRST, SECOND], gates=[other, "exact_match >= 0.95"])
    said = refusal(gated(client, SECOND, evaluation))[2]
    assert "0.95" in said
    assert "better" not in said
    # the evaluation compared SECOND with FIRST, which is not its first model, because of that gate alone
    assert gated(client, SECOND, evaluation, other).status_code == 200


def test_a_canary_has_to_pass_and_what_the_alias_stands_for_has_not(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    evaluation = evaluate(harness, file_id, [FIRST, SECOND])
    passing = gated(client, FIRST, evaluation, "exact_match >= 0.8", canary={"model": SECOND, "percent": 5})
    assert passing.status_code == 200, passing.json()
    put(client, SECOND)
    failing = gated(client, SECOND, evaluation, "exact_match >= 0.8", canary={"model": FIRST, "percent": 5})
    assert refusal(failing)[0] == 409
    put(client, BASE)
    both = gated(client, FIRST, evaluation, "exact_match >= 0.8", canary={"model": SECOND, "percent": 5})
    assert refusal(both)[0] == 409


def test_a_rollback_needs_no_gate(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    evaluation = evaluate(harness, file_id, [FIRST, SECOND])
    gated(client, SECOND, evaluation, "exact_match >= 0.8")
    assert client.post(f"{PATH}/{NAME}/rollback").json()["model"] == FIRST


def test_an_evaluation_that_says_nothing_of_it_is_refused(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    ended = evaluate(harness, file_id, [BASE, SECOND])
    of_others = evaluate(harness, file_id, [BASE])
    waiting = evaluate(harness, file_id, [SECOND], is_ended=False)
    for evaluation, thresholds, param, word in (
        ("eval-none", ["exact_match >= 0.5"], "gate.evaluation", "no such"),
        (waiting, ["exact_match >= 0.5"], "gate.evaluation", "queued"),
        (of_others, ["exact_match >= 0.5"], "gate.evaluation", f"it asked {BASE}"),
        (ended, [], "gate.thresholds", "no gate of its own"),
        (ended, ["exact_match >= 0.5", "rouge_l >= 0.5"], "gate.thresholds[1]", "rouge_l"),
        (ended, [f"exact_match better than {FIRST}"], "gate.thresholds[0]", "did not compare"),
        (ended, ["exact_match > 0.5"], "gate.thresholds[0]", "character 13"),
    ):
        status, told_param, said = refusal(gated(client, SECOND, evaluation, *thresholds))
        assert (status, told_param) == (400, param)
        assert word in said
    assert client.get(f"{PATH}/{NAME}").json()["move"] == 1
