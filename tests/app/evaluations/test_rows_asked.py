"""Which rows a request for an evaluation names, and what else is decided of it when it is made."""

import json

from starlette.testclient import TestClient

from core.jobs.spec import FileRef
from core.store import files
from core.text.held_out import draw, hash_of
from tests.app.conftest import BASE, COLUMNS, EXAMPLES, ApiHarness, upload
from tests.app.evaluations.asking import PATH, TUNED, ask, refusal_of, spec_of, train


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


def test_what_a_model_was_trained_on_may_be_forgotten(client: TestClient, harness: ApiHarness, file_id: str) -> None:
    other = upload(client, EXAMPLES.replace(b'": "p', b'": "q'), filename="other.jsonl").json()["id"]
    train(harness, other)
    assert client.delete(f"/v1/files/{other}").status_code == 200
    [blob] = [path for path in harness.stored_bytes() if b"q1" in path.read_bytes()]
    blob.unlink()
    assert ask(client, file=file_id, models=[TUNED]).json()["unchecked_models"] == [TUNED]
