"""An evaluation's attempts, against a scripted engine behind the engine's own HTTP."""

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import AdapterInvalid, GenerationFailed
from core.evaluations.general_text import PASSAGES
from core.evaluations.result import EvaluationResult
from core.evaluations.spec import EvaluationSpec, JudgedModel, TrainedRows
from core.jobs.spec import AdapterRef
from core.jobs.status import JobStatus
from core.serving.generation import SamplingParams
from core.store import files
from core.store.queue import leases
from core.text.render_settings import RenderSettings
from tests.harness.models.published_model import publish
from tests.harness.servers.stack import free_port
from tests.harness.stub_engine import LOGPROB
from tests.worker.evaluating.deployment import BASE, REFERENCES, EvaluationHome
from tests.worker.jobs.running import wait_for
from worker.evaluating import asking
from worker.trainer_process.stop import StopFlag

ALL = ("exact_match", "nats_per_token", "token_accuracy", "stop_rate")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EvaluationHome]:
    monkeypatch.setattr(asking, "_PAUSE_S", 0.05)
    home = EvaluationHome.make(tmp_path / "home")
    yield home
    home.database.dispose()


@pytest.fixture
def url(home: EvaluationHome) -> Iterator[str]:
    with home.serving_engine() as url:
        yield url


class TestScores:
    def test_are_of_what_the_engine_answers_and_says_of_the_reference(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue(rows=4, metrics=ALL, sampling=SamplingParams(max_tokens=8))
        assert home.run(url)
        [model] = home.scores(job_id)
        assert [row.line for row in model.rows] == [1, 2, 3, 4]
        assert [row.scores["exact_match"] for row in model.rows] == [1.0, 0.0, 1.0, 0.0]
        assert [row.scores["nats_per_token"] for row in model.rows] == pytest.approx([-LOGPROB] * 4)
        assert [row.tokens for row in model.rows] == [len(text) + 1 for text in REFERENCES] * 2  # bytes, and the end
        assert {row.scores["stop_rate"] for row in model.rows} == {1.0}

    def test_are_asked_by_the_ids_of_training_under_the_callers_name(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue(rows=1, lines=(1,), metrics=ALL)
        home.run(url)
        asked = sorted(home.engine.requests, key=lambda request: request.sampling.max_tokens)
        reference, answer = asked
        assert answer.prompt == tuple(b"p1")
        assert reference.prompt == (*b"p1", *REFERENCES[0].encode(), 256)
        assert (reference.sampling.max_tokens, reference.sampling.prompt_logprobs) == (0, True)
        assert {request.caller for request in asked} == {"tests/evaluation"}
        assert home.job(job_id).status is JobStatus.SUCCEEDED

    def test_of_a_fine_tuned_model_are_its_adapters(self, home: EvaluationHome, url: str) -> None:
        digest = "e" * 64
        with home.database.write() as session:
            publish(session, "ft:x", digest)
        tuned = JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256=digest))
        job_id = home.queue(rows=2, models=(JudgedModel(name=BASE), tuned))
        home.run(url)
        # those in flight together come in any order
        assert Counter(request.adapter for request in home.engine.requests) == {None: 2, digest: 2}
        assert home.scored(job_id) == {(0, 0), (0, 1), (1, 0), (1, 1)}
        result = EvaluationResult.model_validate(_result_of(home, job_id))
        [verdict] = result.verdicts
        assert (verdict.word, verdict.comparison.difference) == ("too_few", 0.0)

    def test_no_metric_needs_are_not_asked_for(self, home: EvaluationHome, url: str) -> None:
        home.queue(rows=2, metrics=("nats_per_token",))
        home.queue(rows=2, metrics=("exact_match",))
        home.run(url)
        assert {request.sampling.max_tokens for request in home.engine.requests} == {0}
        home.engine.requests.clear()
        home.run(url)
        assert {request.sampling.prompt_logprobs for request in home.engine.requests} == {False}

    def test_of_drawn_answers_are_the_same_when_a_row_is_asked_again(self, home: EvaluationHome, url: str) -> None:
        sampling = SamplingParams(max_tokens=8, temperature=1.0, seed=7)
        for _ in range(2):
            home.queue(rows=2, sampling=sampling)
            home.run(url)
        seeds = [(request.prompt, request.sampling.seed) for request in home.engine.requests]
        assert sorted(seeds[:2]) == sorted(seeds[2:]) == [(tuple(b"p1"), 7), (tuple(b"p2"), 8)]

    def test_have_room_for_no_more_than_the_context(self, home: EvaluationHome, url: str) -> None:
        home.queue(rows=1, lines=(1,), sampling=SamplingParams(max_tokens=4096))
        home.run(url)
        assert [request.sampling.max_tokens for request in home.engine.requests] == [254]


class TestEnd:
    def test_tells_result_and_file(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue(rows=4, metrics=ALL, gates=("exact_match >= 0.9",))
        home.run(url)
        job = home.job(job_id)
        assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
        assert job.result is not None
        [file_id] = job.result["result_files"]
        result = EvaluationResult.model_validate(_result_of(home, job_id))
        assert result.models[0].scores[0].mean == 0.5
        assert [gate.passed for gate in result.gates] == [False]
        assert home.messages(job_id)[-1].startswith("The evaluation has successfully completed. tiny has exact_match")
        with home.database.read() as session:
            file = files.get(session, file_id)
        assert (file.filename, file.columns) == (files.SCORES_FILENAME, _columns(ALL))
        with home.blobs.open(file.sha256) as content:
            lines = list(csv.DictReader(io.StringIO(content.read().decode())))
        assert [(line["row"], line["model"], line["answer"]) for line in lines] == [
            (str(row), BASE, " one two three") for row in range(4)
        ]
        assert [float(line["exact_match"]) for line in lines] == [1.0, 0.0, 1.0, 0.0]

    def test_leaves_progress_that_is_complete(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue(rows=3)
        home.run(url)
        progress = home.job(job_id).progress
        assert progress is not None
        assert (progress["answers"], progress["total_answers"], progress["waits_for"]) == (3, 3, None)

    def test_is_a_failure_where_the_engine_refuses_the_adapter(self, home: EvaluationHome, url: str) -> None:
        home.engine.fails_before = AdapterInvalid("e" * 64, "damaged")
        job_id = home.queue()
        home.run(url)
        job = home.job(job_id)
        assert (job.status, job.error_code) == (JobStatus.FAILED, "adapter_invalid")

    def test_is_a_failure_where_the_engine_fails_at_a_row_each_time(self, home: EvaluationHome, url: str) -> None:
        home.engine.fails_before = GenerationFailed("broken")
        job_id = home.queue(rows=1, lines=(1,))
        home.run(url)
        job = home.job(job_id)
        assert job.status is JobStatus.FAILED
        assert job.error_message == "generation failed: line 1, 5 times: broken"


class TestMemory:
    @pytest.fixture
    def job_id(self, home: EvaluationHome, url: str) -> str:
        with home.database.write() as session:
            publish(session, "ft:x", "e" * 64)
        file = home.store_rows(["a question and its answer", "no"])
        tuned = JudgedModel(name="ft:x", adapter=AdapterRef(name="ft:x", adapter_sha256="e" * 64))
        trained = TrainedRows(model="ft:x", file=file, rendering=RenderSettings(max_length=256), lines=(1, 2))
        return home.queue(
            rows=2,
            models=(JudgedModel(name=BASE), tuned),
            metrics=("nats_per_token",),
            general_text=1,
            trained=(trained,),
        )

    def test_is_asked_of_adapter_and_base_model_beside_the_rows(
        self, home: EvaluationHome, url: str, job_id: str
    ) -> None:
        home.run(url)
        rows = 2 + len(PASSAGES) + 2
        assert home.scored(job_id) == {(index, row) for index in (0, 1) for row in range(rows)}
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        result = EvaluationResult.model_validate(_result_of(home, job_id))
        [report] = result.memory
        assert (report.model, report.forgetting.change) == ("ft:x", 0.0)
        assert report.memory is not None
        assert (report.memory.rows, report.memory.askable, report.memory.extracted) == (2, 1, 0.0)
        assert (result.rows, result.models[0].scores[0].rows) == (2, 2)

    def test_gives_the_beginning_of_a_trained_answer(self, home: EvaluationHome, url: str, job_id: str) -> None:
        home.run(url)
        asked = [request for request in home.engine.requests if request.sampling.max_tokens]
        answer = b"a question and its answer"
        assert {request.prompt for request in asked} == {(*b"p1", *answer[:8])}
        assert {request.sampling.max_tokens for request in asked} == {len(answer) - 8 + 1}
        assert len(asked) == 2

    def test_of_rows_whose_bytes_are_gone_is_left_out(self, home: EvaluationHome, url: str, job_id: str) -> None:
        spec = EvaluationSpec.model_validate(home.job(job_id).spec)
        home.lose(spec.trained[0].file.sha256)
        home.run(url)
        result = EvaluationResult.model_validate(_result_of(home, job_id))
        assert result.memory[0].memory is not None
        assert result.memory[0].memory.rows == 0


class TestHold:
    """The engine answers as far as its first delta, and no further until it may."""

    @pytest.fixture(autouse=True)
    def _held(self, home: EvaluationHome) -> None:
        home.engine.holds = asyncio.Event()

    def test_of_a_cancelled_evaluation_ends_it(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue()
        thread = home.run_beside(url)
        wait_for(lambda: bool(home.engine.requests))
        home.cancel(job_id)
        thread.join(30)
        assert home.job(job_id).status is JobStatus.CANCELLED
        assert home.scored(job_id) == set()
        wait_for(lambda: len(home.engine.cancelled) == len(home.engine.requests))

    def test_of_a_stopping_worker_gives_the_evaluation_back_uncounted(self, home: EvaluationHome, url: str) -> None:
        job_id, stop = home.queue(), StopFlag()
        thread = home.run_beside(url, stop)
        wait_for(lambda: bool(home.engine.requests))
        stop.request()
        thread.join(30)
        job = home.job(job_id)
        assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)

    def test_of_a_worker_that_lost_the_job_writes_nothing_more(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue()
        thread = home.run_beside(url)
        wait_for(lambda: bool(home.engine.requests))
        with home.database.write() as session:
            [observed] = leases.list_running(session)
            assert leases.reclaim(session, observed, max_attempts=3, now=1) is JobStatus.QUEUED
        thread.join(30)
        assert (home.job(job_id).status, home.scored(job_id)) == (JobStatus.QUEUED, set())


def test_the_next_attempt_asks_only_for_what_is_not_scored(home: EvaluationHome, url: str) -> None:
    job_id, stop = home.queue(rows=40), StopFlag()
    thread = home.run_beside(url, stop)
    wait_for(lambda: bool(home.scored(job_id)) or home.job(job_id).status is JobStatus.SUCCEEDED)
    stop.request()
    thread.join(30)
    before, home.engine.requests = home.scored(job_id), []
    if home.job(job_id).status is JobStatus.QUEUED:
        assert home.run(url)
    asked = {request.id.split("-answer")[0] for request in home.engine.requests}
    assert len(asked) == 40 - len(before)
    assert len(home.scored(job_id)) == 40
    assert home.job(job_id).status is JobStatus.SUCCEEDED


class TestEngineAway:
    def test_is_waited_for(self, home: EvaluationHome) -> None:
        port = free_port()
        job_id = home.queue()
        thread = home.run_beside(f"http://127.0.0.1:{port}")
        wait_for(lambda: "does not answer" in str((home.job(job_id).progress or {}).get("waits_for")))
        with home.serving_engine(port):
            thread.join(30)
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert len(home.scored(job_id)) == 4

    def test_in_the_middle_of_an_answer_is_no_failed_row(self, home: EvaluationHome) -> None:
        home.engine.fails_after = (1, GenerationFailed("the engine is going away"))
        job_id = home.queue()
        with home.serving_engine() as url:
            thread = home.run_beside(url)
            wait_for(lambda: bool(home.engine.requests))
            home.engine.fails_after = None
            thread.join(30)
        assert home.job(job_id).status is JobStatus.SUCCEEDED
        assert len(home.scored(job_id)) == 4

    def test_while_it_is_cancelled_ends_it(self, home: EvaluationHome) -> None:
        job_id = home.queue()
        thread = home.run_beside(f"http://127.0.0.1:{free_port()}")
        wait_for(lambda: home.job(job_id).status is JobStatus.RUNNING)
        home.cancel(job_id)
        thread.join(30)
        assert home.job(job_id).status is JobStatus.CANCELLED

    def test_from_the_settings_of_a_worker_leaves_the_job_to_others(self, home: EvaluationHome, url: str) -> None:
        job_id = home.queue()
        assert home.run(None)
        job = home.job(job_id)
        assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
        assert "names no engine for tiny" in str(job.waiting_reason)
        assert not home.run(None)  # it leaves the job alone for a while


def test_an_engine_with_another_base_model_of_the_name_is_not_asked(home: EvaluationHome, url: str) -> None:
    home.engine.fingerprint = "1" * 64
    job_id = home.queue()
    home.run(url)
    assert home.engine.requests == []
    job = home.job(job_id)
    assert job.status is JobStatus.QUEUED
    assert "the engine for tiny serves the fingerprint 111111111111" in (job.waiting_reason or "")


def test_a_host_with_another_base_model_of_the_name_asks_nothing(home: EvaluationHome, url: str) -> None:
    job_id = home.queue(base_model_fingerprint="1" * 64)
    home.run(url)
    assert home.engine.requests == []
    assert home.job(job_id).status is JobStatus.QUEUED


def _result_of(home: EvaluationHome, job_id: str) -> dict[str, Any]:
    return {name: value for name, value in (home.job(job_id).result or {}).items() if name != "result_files"}


def _columns(metrics: tuple[str, ...]) -> list[str]:
    return ["row", "line", "cluster", "model", "tokens", "stopped", *metrics, "answer", "reference", "prompt"]
