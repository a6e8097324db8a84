"""Evaluations over HTTP: what a request becomes, and what it is refused for before anything is queued."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import ScoredRow
from core.evaluations.spec import EvaluationSpec
from core.jobs.attempt import AttemptEnd, Publication, StoredAdapter
from core.jobs.events import JobEvent
from core.jobs.kind import JobKind
from core.jobs.spec import FileRef
from core.store import evaluations, files, jobs
from core.store.jobs import NewJob
from core.store.queue import claims, leases
from core.store.queue.claims import WorkerIdentity
from core.store.queue.leases import Lease
from core.text.held_out import draw, hash_of
from tests.app.conftest import BASE, COLUMNS, EXAMPLES, LOCAL, ApiHarness, upload
from tests.harness.job_specs import make_job_spec
from tests.harness.models.published_model import publish

PATH = "/v1/evaluations"
TUNED = "ft:tiny:local::1"


@pytest.fixture
def client(harness: ApiHarness) -> Iterator[TestClient]:
    harness.settings = harness.settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})
    with TestClient(harness.app(), base_url=LOCAL) as client:
        yield client


def ask(client: TestClient, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return client.post(PATH, json={"models": [BASE]} | fields, headers=headers)


def refusal(client: TestClient, **fields: Any) -> tuple[int, str | None, str]:
    response = ask(client, **fields)
    error = response.json()["error"]
    assert client.get(PATH).json()["data"] == []
    return response.status_code, error["param"], error["message"]


def train(harness: ApiHarness, file_id: str, name: str = TUNED, digest: str = "b" * 64, **spec: Any) -> str:
    """Put a model into the database that was trained on a file; give its job's id."""
    with harness.database.write() as session:
        file = files.get(session, file_id)
        ref = FileRef(id=file.id, sha256=file.sha256, examples=file.examples, file_type=file.file_type)
        job = jobs.create(session, NewJob("someone", make_job_spec(ref, **spec), {}, "d" * 64), 1)
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), ("tiny",), 2)
        assert claimed is not None
        publication = Publication(StoredAdapter(digest, 1, ()), name, "", trained_tokens=1, result={})
        leases.publish(session, Lease(job.id, claimed.token), publication, AttemptEnd(), 3)
        return job.id


def spec_of(harness: ApiHarness, evaluation_id: str) -> EvaluationSpec:
    with harness.database.read() as session:
        return EvaluationSpec.model_validate(jobs.get(session, evaluation_id, JobKind.EVALUATION).spec)


class TestAsked:
    def test_are_a_files_rows_with_every_auto_resolved(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        response = ask(client, file=file_id)
        told = response.json()
        assert response.status_code == 200
        assert told["id"].startswith("eval-")
        assert (told["object"], told["status"], told["rows"], told["base_model"]) == ("evaluation", "queued", 100, BASE)
        assert told["queue_position"] == 1
        assert told["metrics"][0] == "nats_per_token"
        assert told["sampling"]["max_tokens"] == 16
        assert told["sampling"]["temperature"] == 0.0
        assert told["result"] is None
        assert harness.notifier.notified == [told["id"]]
        assert client.get(f"{PATH}/{told['id']}").json() == told
        assert client.get(PATH).json()["data"] == [told]
        spec = spec_of(harness, told["id"])
        assert (spec.lines, spec.base_model_fingerprint) == (tuple(range(1, 101)), "0" * 64)

    def test_are_chosen_by_their_prompts_and_not_by_their_place(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        chosen = spec_of(harness, ask(client, file=file_id, max_rows=7).json()["id"]).lines
        assert len(chosen) == 7
        assert chosen != tuple(range(1, 8))
        lines = EXAMPLES.splitlines()
        turned = upload(client, b"\n".join(reversed(lines)) + b"\n", filename="turned.jsonl").json()["id"]
        again = spec_of(harness, ask(client, file=turned, max_rows=7).json()["id"]).lines
        assert {lines[line - 1] for line in chosen} == {lines[100 - line] for line in again}

    def test_are_what_a_job_holds_out(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        job_id = train(harness, file_id)
        told = ask(client, job=job_id, models=[BASE, TUNED]).json()
        assert (told["job"], told["file"], told["rows"]) == (job_id, file_id, 10)
        prompts = [json.loads(line)["prompt"] for line in EXAMPLES.splitlines()]
        held_out = draw(prompts)
        wanted = [line for line, prompt in enumerate(prompts, start=1) if hash_of(prompt) in held_out]
        assert list(spec_of(harness, told["id"]).lines) == wanted

    def test_are_a_jobs_validation_file(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        other = upload(client, b'{"prompt": "v1", "completion": "a"}\n{"prompt": "v2", "completion": "b"}\n').json()
        ref = FileRef(id=other["id"], sha256=_sha256(harness, other["id"]), examples=2, file_type="jsonl")
        job_id = train(harness, file_id, validation_file=ref)
        told = ask(client, job=job_id, models=[TUNED]).json()
        assert (told["file"], told["rows"]) == (other["id"], 2)

    def test_of_columns_are_rendered_by_a_prompt_format(self, client: TestClient, harness: ApiHarness) -> None:
        file_id = upload(client, COLUMNS).json()["id"]
        prompt_format = {"prompt": "Q {{question}}", "completion": "{{answer}}"}
        told = ask(client, file=file_id, prompt_format=prompt_format).json()
        assert (told["rows"], told["prompt_format"]) == (3, prompt_format)
        assert refusal_of(client, file=file_id)[1] == "prompt_format"

    def test_of_conversations_are_their_last_answers(self, client: TestClient, harness: ApiHarness) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        chats = [{"messages": [*turns, {"role": "user", "content": f"c{n}"}, turns[1]]} for n in range(3)]
        file_id = upload(client, "".join(json.dumps(chat) + "\n" for chat in chats).encode()).json()["id"]
        spec = spec_of(harness, ask(client, file=file_id).json()["id"])
        assert (spec.train_on, len(spec.lines)) == ("last_assistant", 3)

    def test_too_long_are_left_out_and_counted(self, client: TestClient) -> None:
        lines = [{"prompt": "p" * length, "completion": "c"} for length in (5, 6, 500)]
        file_id = upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode()).json()["id"]
        told = ask(client, file=file_id, max_length=100).json()
        assert (told["rows"], told["too_long"]) == (2, 1)

    def test_give_the_labels_of_the_whole_file(self, client: TestClient, harness: ApiHarness) -> None:
        lines = [{"prompt": f"p{n}", "completion": f" {'yes' if n % 2 else 'no'}"} for n in range(20)]
        file_id = upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode()).json()["id"]
        told = ask(client, file=file_id, metrics=["label_accuracy"], max_rows=2).json()
        assert spec_of(harness, told["id"]).labels == ("no", "yes")

    def test_of_adapters_beside_their_base_model_are_asked_for_memory_too(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        job_id = train(harness, file_id)
        told = ask(client, job=job_id, models=[BASE, TUNED]).json()
        spec = spec_of(harness, told["id"])
        assert (told["memory"], spec.general_text) == (True, 1)
        [trained] = spec.trained
        assert (trained.model, trained.file.id, len(trained.lines)) == (TUNED, file_id, 50)
        assert not set(trained.lines) & set(spec.lines)
        for fields in ({"memory": False}, {"models": [TUNED]}, {"metrics": ["chrf"]}):
            told = ask(client, **{"job": job_id, "models": [BASE, TUNED]} | fields).json()
            assert (told["memory"], spec_of(harness, told["id"]).trained) == (False, ())

    def test_with_a_temperature_have_a_seed_that_is_kept(self, client: TestClient, file_id: str) -> None:
        told = ask(client, file=file_id, sampling={"temperature": 0.7}).json()
        assert isinstance(told["sampling"]["seed"], int)
        assert ask(client, file=file_id, max_rows=5).json()["sampling"]["seed"] is None


def _sha256(harness: ApiHarness, file_id: str) -> str:
    with harness.database.read() as session:
        return files.get(session, file_id).sha256


def refusal_of(client: TestClient, **fields: Any) -> tuple[int, str | None, str]:
    response = ask(client, **fields)
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "file", "give either"),
        ({"file": "FILE", "job": "ftjob-x"}, "file", "give either"),
        ({"file": "file-none"}, "file", "no such file"),
        ({"file": "FILE", "models": []}, "models", "at least 1"),
        ({"file": "FILE", "models": ["other"]}, "models[0]", "no such model"),
        ({"file": "FILE", "models": [BASE, BASE]}, "models[1]", "named twice"),
        ({"file": "FILE", "metrics": ["exact"]}, "metrics[0]", "there is no metric exact"),
        ({"file": "FILE", "metrics": ["chrf", "chrf"]}, "metrics[1]", "named twice"),
        ({"file": "FILE", "metrics": ["label_accuracy"]}, "metrics[0]", "no labels"),
        ({"file": "FILE", "metrics": ["json_field_f1"]}, "metrics[0]", "no answer is JSON"),
        ({"file": "FILE", "normalization": "json", "metrics": ["exact_match"]}, "metrics[0]", "no answer is JSON"),
        ({"file": "FILE", "normalization": "lower"}, "normalization", "should be"),
        ({"file": "FILE", "max_rows": 1}, "max_rows", "greater than or equal to 2"),
        ({"file": "FILE", "max_length": 100_000}, "max_length", "context"),
        ({"file": "FILE", "gate": ["exact_match > 1"]}, "gate[0]", "character 13"),
        ({"file": "FILE", "gate": ["rouge_l >= 0.5"]}, "gate[0]", "not among the metrics"),
        ({"file": "FILE", "gate": ["better than ft:x"]}, "gate[0]", "not among the models"),
        ({"file": "FILE", "gate": [f"better than {BASE}"]}, "gate[0]", "only model"),
        ({"file": "FILE", "metrics": ["length_ratio"], "gate": ["exact_match >= 1"]}, "gate", "which way is better"),
        ({"file": "FILE", "sampling": {"temperature": 3}}, "sampling.temperature", "less than or equal to 2"),
        ({"file": "FILE", "sampling": {"n": 2}}, "sampling.n", "not supported"),
        ({"file": "FILE", "memory": True}, "memory", "name the base model and an adapter"),
        ({"file": "FILE", "threshold": 1}, "threshold", "not supported"),
    ],
)
def test_is_refused_by_name_and_nothing_is_queued(
    client: TestClient, file_id: str, fields: dict[str, Any], param: str, words: str
) -> None:
    fields = {name: file_id if value == "FILE" else value for name, value in fields.items()}
    status, named, message = refusal(client, **fields)
    assert (status, named) == (400, param)
    assert words in message


class TestRefused:
    def test_is_a_file_with_wrong_lines(self, client: TestClient) -> None:
        file_id = upload(client, b'{"prompt": "p", "completion": "c"}\n{"prompt": "q"}\n').json()["id"]
        status, param, message = refusal(client, file=file_id)
        assert (status, param) == (400, "file")
        assert "cannot be evaluated on" in message
        assert "line 2" in message

    @pytest.mark.parametrize("rows", [1, 2])
    def test_are_fewer_than_two_rows(self, client: TestClient, rows: int) -> None:
        lines = [{"prompt": "p" * (1 + 500 * n), "completion": "c"} for n in range(rows)]
        file_id = upload(client, "".join(json.dumps(line) + "\n" for line in lines).encode()).json()["id"]
        status, param, message = refusal(client, file=file_id, max_length=100)
        assert (status, param) == (400, "file")
        assert "at least two rows" in message

    def test_are_rows_that_a_model_was_trained_on(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        train(harness, file_id)
        status, param, message = refusal(client, file=file_id, models=[BASE, TUNED])
        assert (status, param) == (400, "file")
        assert f"{TUNED} was trained on the prompts of line " in message
        assert "and 70 more" in message
        assert ask(client, file=file_id, models=[BASE]).status_code == 200

    def test_are_rows_that_an_earlier_adapter_of_a_model_was_trained_on(
        self, client: TestClient, harness: ApiHarness, file_id: str
    ) -> None:
        train(harness, file_id)
        later = upload(client, b'{"prompt": "z1", "completion": "a"}\n{"prompt": "z2", "completion": "b"}\n').json()
        earlier = {"name": TUNED, "adapter_sha256": "b" * 64}
        train(harness, later["id"], name="ft:later", digest="c" * 64, continue_from=earlier)
        _, _, message = refusal(client, file=file_id, models=["ft:later"])
        assert "ft:later was trained on the prompts of line " in message

    def test_is_a_base_model_that_vllm_serves(self, harness: ApiHarness, file_id_of: str) -> None:
        urls = {"engine_urls": {}, "vllm_urls": {BASE: "http://127.0.0.1:1"}}
        harness.settings = harness.settings.model_copy(update=urls)
        with TestClient(harness.app(), base_url=LOCAL) as client:
            status, param, message = refusal(client, file=file_id_of)
        assert (status, param) == (400, "models")
        assert "served by vLLM" in message

    def test_is_a_base_model_without_an_engine(self, harness: ApiHarness, file_id_of: str) -> None:
        harness.settings = harness.settings.model_copy(update={"engine_urls": {}})
        with TestClient(harness.app(), base_url=LOCAL) as client:
            assert "no engine answers for tiny" in refusal(client, file=file_id_of)[2]

    def test_is_a_model_of_another_base_model(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        train(harness, file_id)
        with harness.database.write() as session:
            session.execute(text("UPDATE adapters SET base_model = 'second'"))
        harness.settings = harness.settings.model_copy(update={"base_models": (BASE, "second")})
        with TestClient(harness.app(), base_url=LOCAL) as second:
            status, param, message = refusal(second, file=file_id, models=[BASE, TUNED])
        assert (status, param) == (400, "models[1]")
        assert "compare models of one base model" in message

    @pytest.fixture
    def file_id_of(self, client: TestClient) -> str:
        return str(upload(client).json()["id"])


def test_what_a_model_was_trained_on_may_be_forgotten(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    other = upload(client, EXAMPLES.replace(b'": "p', b'": "q'), filename="other.jsonl").json()["id"]
    train(harness, other)
    assert client.delete(f"/v1/files/{other}").status_code == 200
    [blob] = [path for path in harness.stored_bytes() if b"q1" in path.read_bytes()]
    blob.unlink()
    assert ask(client, file=file_id, models=[TUNED]).json()["unchecked_models"] == [TUNED]


class TestRepetition:
    def test_by_key_gives_the_same_evaluation(self, client: TestClient, file_id: str) -> None:
        headers = {"Idempotency-Key": "k"}
        first = ask(client, headers, file=file_id).json()
        assert ask(client, headers, file=file_id).json()["id"] == first["id"]
        assert ask(client, headers, file=file_id, max_rows=9).status_code == 422
        assert len(client.get(PATH).json()["data"]) == 1

    def test_of_a_client_gives_the_same_evaluation(self, client: TestClient, file_id: str) -> None:
        first = ask(client, file=file_id).json()
        assert ask(client, {"x-stainless-retry-count": "1"}, file=file_id).json()["id"] == first["id"]


class TestKinds:
    def test_have_routes_of_their_own(self, client: TestClient, harness: ApiHarness, file_id: str) -> None:
        evaluation = ask(client, file=file_id).json()["id"]
        job = client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()["id"]
        assert [each["id"] for each in client.get("/v1/fine_tuning/jobs").json()["data"]] == [job]
        assert [each["id"] for each in client.get(PATH).json()["data"]] == [evaluation]
        for path in ("", "/events", "/checkpoints"):
            assert client.get(f"/v1/fine_tuning/jobs/{evaluation}{path}").status_code == 404
        for action in ("cancel", "pause", "resume"):
            assert client.post(f"/v1/fine_tuning/jobs/{evaluation}/{action}").status_code == 404
        for path in ("", "/events", "/rows"):
            error = client.get(f"{PATH}/{job}{path}").json()["error"]
            assert error["code"] == "evaluation_not_found"
        assert client.post(f"{PATH}/{job}/cancel").status_code == 404

    def test_wait_in_lines_of_their_own(self, client: TestClient, file_id: str) -> None:
        client.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id})
        assert ask(client, file=file_id).json()["queue_position"] == 1


def test_a_waiting_evaluation_is_cancelled_at_once(client: TestClient, file_id: str) -> None:
    evaluation = ask(client, file=file_id).json()["id"]
    assert client.post(f"{PATH}/{evaluation}/cancel").json()["status"] == "cancelled"
    [event] = client.get(f"{PATH}/{evaluation}/events").json()["data"]
    assert (event["object"], event["message"]) == ("evaluation.event", "The job was cancelled before it started")


class TestRows:
    @pytest.fixture
    def evaluation(self, client: TestClient, harness: ApiHarness, file_id: str) -> str:
        """Give an evaluation of 4 rows and two models, of which one row has not been asked yet."""
        with harness.database.write() as session:
            publish(session, "ft:other")
        told = ask(client, file=file_id, max_rows=4, models=[BASE, "ft:other"], metrics=["exact_match", "chrf"])
        evaluation = str(told.json()["id"])
        rows = [EvaluationRow(n + 1, f"{n:016x}", f"p{n}", f" c{n}", (1,), (2,), (True,)) for n in range(4)]
        scores: dict[int, list[float | None]] = {0: [0.1, 0.9, 0.5, 0.5], 1: [0.2, 0.3, None]}
        with harness.database.write() as session:
            evaluations.add_examples(session, evaluation, dict(enumerate(rows)))
            for index, found in scores.items():
                scored = [
                    ScoredRow(
                        model_index=index, row=row, answer=f"a{row}", stopped=True, tokens=2, scores={"chrf": score}
                    )
                    for row, score in enumerate(found)
                ]
                evaluations.add_scored(session, evaluation, scored)
        return evaluation

    def rows(self, client: TestClient, evaluation: str, **query: Any) -> list[int]:
        response = client.get(f"{PATH}/{evaluation}/rows", params=query)
        assert response.status_code == 200, response.json()
        return [row["row"] for row in response.json()["data"]]

    def test_are_given_with_all_answers_so_far(self, client: TestClient, evaluation: str) -> None:
        data = client.get(f"{PATH}/{evaluation}/rows").json()["data"]
        assert [row["row"] for row in data] == [0, 1, 2, 3]
        answer = {"answer": "a0", "stopped": True, "tokens": 2}
        assert data[0] == {
            "row": 0,
            "line": 1,
            "cluster": "0" * 16,
            "prompt": "p0",
            "reference": " c0",
            "answers": [
                {"model": BASE, **answer, "scores": {"chrf": 0.1}},
                {"model": "ft:other", **answer, "scores": {"chrf": 0.2}},
            ],
        }
        assert len(data[3]["answers"]) == 1

    def test_are_sorted_by_a_models_score_or_by_a_difference(self, client: TestClient, evaluation: str) -> None:
        assert self.rows(client, evaluation, sort="chrf", model=BASE) == [0, 2, 3, 1]
        assert self.rows(client, evaluation, sort="chrf", model=BASE, order="desc") == [1, 3, 2, 0]
        assert self.rows(client, evaluation, sort="chrf") == [0, 1, 2, 3]
        assert self.rows(client, evaluation, sort="chrf", model="ft:other", against=BASE) == [1, 0, 2, 3]
        assert self.rows(client, evaluation, order="desc") == [3, 2, 1, 0]

    def test_are_paged(self, client: TestClient, evaluation: str) -> None:
        query: dict[str, Any] = {"sort": "chrf", "model": BASE, "limit": 3}
        first = client.get(f"{PATH}/{evaluation}/rows", params=query).json()
        assert ([row["row"] for row in first["data"]], first["has_more"]) == ([0, 2, 3], True)
        second = client.get(f"{PATH}/{evaluation}/rows", params=query | {"after": 3}).json()
        assert ([row["row"] for row in second["data"]], second["has_more"]) == ([1], False)

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ({"sort": "rouge_l"}, "sort"),
            ({"model": BASE}, "model"),
            ({"sort": "chrf", "model": "x"}, "model"),
            ({"sort": "chrf", "against": "x"}, "against"),
            ({"after": 9}, "after"),
            ({"by": "x"}, "by"),
        ],
    )
    def test_of_a_query_that_does_not_fit_are_refused(
        self, client: TestClient, evaluation: str, query: dict[str, Any], param: str
    ) -> None:
        response = client.get(f"{PATH}/{evaluation}/rows", params=query)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_an_ended_evaluation_tells_its_result_and_its_file(
    client: TestClient, harness: ApiHarness, file_id: str
) -> None:
    evaluation = ask(client, file=file_id).json()["id"]
    with harness.database.write() as session:
        claimed = claims.claim(session, WorkerIdentity("w", "h", 1), (BASE,), 2, kind=JobKind.EVALUATION)
        assert claimed is not None
        result = {"rows": 100, "result_files": ["file-x"]}
        leases.conclude(session, Lease(evaluation, claimed.token), JobEvent("done"), result, AttemptEnd(), 3)
    told = client.get(f"{PATH}/{evaluation}").json()
    assert (told["status"], told["result"], told["result_files"]) == ("succeeded", {"rows": 100}, ["file-x"])
