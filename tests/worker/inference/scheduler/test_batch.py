"""What a step computes and what comes of it: joining, leaving, prefill chunks, draft tokens, failures."""

import functools
from pathlib import Path

import pytest

from core.errors import GenerationFailed
from core.serving.generation import FinishReason
from tests.harness.fake_clock import FakeClock
from tests.worker.inference.scheduler.loop_harness import LoopHarness, TrackedRequest

LONG = "the quick brown fox jumps over the lazy dog, twice. " * 3
FEW = 47  # states of a text, which then soon repeats itself: by the ninth token, every four
TEMPTING = "".join(f"x{chr(byte)}" for byte in range(32, 128)) + "x"  # whatever comes next has stood behind an x before


def test_rows_join_and_leave_without_changing_each_other(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=3)
    adapters = [None, harness.adapter("a"), harness.adapter("b", rank=16)]
    cases = [(LONG[number : 3 + 17 * number], adapters[number % 3], 1 + 3 * (number % 4)) for number in range(8)]
    together = [harness.submit(prompt, adapter, max_tokens=tokens) for prompt, adapter, tokens in cases]
    harness.run_until_idle()
    alone = LoopHarness(tmp_path / "alone", engine_prefix_bytes=0)
    for request, (prompt, adapter, tokens) in zip(together, cases, strict=True):
        assert request.ids == alone.generate(prompt, adapter, max_tokens=tokens).ids
        assert len(request.ids) == tokens
        assert request.releases == 1
    assert harness.is_empty


def test_a_waiting_request_joins_at_the_step_after_one_left(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=1)
    harness.submit("first", max_tokens=1)
    second = harness.submit("second", max_tokens=2)
    harness.step()
    assert second.outcomes == []
    harness.step()
    assert len(second.ids) == 1


@pytest.mark.parametrize("chunk", [1, 7, 32, 200])
def test_a_prompt_prefilled_in_chunks_is_answered_as_one_prefilled_whole(tmp_path: Path, chunk: int) -> None:
    whole = LoopHarness(tmp_path / "whole").generate(LONG, max_tokens=6)
    harness = LoopHarness(tmp_path / "chunks", engine_prefill_tokens=chunk, engine_speculation=False)
    harness.submit("something that decodes meanwhile", max_tokens=200)
    harness.step()
    beside = harness.submit(LONG, max_tokens=6)
    while not beside.ids:
        harness.step()
    chunks = [row for step in harness.runner.fed[1:] for row in step[1:]]
    assert [len(tokens) for tokens, _ in chunks] == [
        min(chunk, len(LONG) - begin) for begin in range(0, len(LONG), chunk)
    ]
    assert [wanted for _, wanted in chunks] == [0] * (len(chunks) - 1) + [1]
    harness.run_until_idle()
    assert beside.ids == whole.ids


def test_decoding_rows_get_a_token_in_every_step_of_a_long_prefill(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=10)
    first = harness.submit("x", max_tokens=100)
    harness.step()
    harness.submit(LONG)
    for step in range(10):
        harness.step()
        assert len(first.ids) >= 2 + step


def test_prefills_share_a_step_oldest_first(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=20)
    harness.submit("x", max_tokens=100)
    harness.step()
    harness.submit("a" * 30, caller="a")
    harness.submit("b" * 30, caller="b")
    harness.step(2)
    chunks = [["".join(map(chr, tokens)) for tokens, _ in step[1:]] for step in harness.runner.fed[1:]]
    assert chunks == [["a" * 20], ["a" * 10, "b" * 10]]


def test_where_no_row_decodes_a_step_prefills_a_long_prompt_whole(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=5)
    harness.submit(LONG)
    harness.step()
    assert [len(tokens) for tokens, _ in harness.runner.fed[0]] == [len(LONG)]


def test_draft_tokens_change_no_text_and_save_steps(tmp_path: Path) -> None:
    runner = {"states": FEW}
    plain = LoopHarness(tmp_path / "plain", runner=runner, engine_speculation=False)
    speculating = LoopHarness(tmp_path / "speculating", runner=runner)
    outcomes = [
        [harness.submit(prompt, max_tokens=60, top_logprobs=2) for prompt in (TEMPTING, "hello", "x")]
        for harness in (plain, speculating)
    ]
    for harness in (plain, speculating):
        harness.run_until_idle()
        assert harness.is_empty
    for expected, speculated in zip(*outcomes, strict=True):
        assert [t for d in speculated.deltas for t in d.tokens] == [t for d in expected.deltas for t in d.tokens]
        assert speculated.text == expected.text
        assert len(speculated.ids) == 60
    assert any(len(delta.tokens) > 1 for request in outcomes[1] for delta in request.deltas), "drafts were accepted"
    assert sum(len(tokens) for step in speculating.runner.fed[1:] for tokens, _ in step) > 3 * 59, "and others rejected"
    assert len(speculating.runner.fed) < 0.6 * len(plain.runner.fed)


def test_a_stop_inside_a_step_of_several_tokens_ends_the_answer_there(tmp_path: Path) -> None:
    runner = {"states": FEW}
    free = LoopHarness(tmp_path / "free", runner=runner, engine_speculation=False).generate("abcab", max_tokens=60)
    stop = free.text[41:43] if free.text[41:43] not in free.text[:41] else free.text[30:41]
    outcomes = []
    for name, speculates in (("plain", False), ("speculating", True)):
        harness = LoopHarness(tmp_path / name, runner=runner, engine_speculation=speculates)
        request = harness.generate("abcab", max_tokens=60, stop=(stop,))
        assert harness.is_empty
        outcomes.append((request.text, request.ids, request.reason, request.deltas[-1].stop))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2:] == (FinishReason.STOP, stop)
    assert stop not in outcomes[0][0]


def test_an_end_token_among_verified_draft_tokens_is_the_last(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    free = harness.generate("abcab", max_tokens=60)
    cycle = free.ids[40]
    first = free.ids.index(cycle)
    harness.runner.ends_after = cycle
    ended = harness.generate("abcab", max_tokens=60)
    assert ended.ids == [*free.ids[: first + 1], harness.runner.end_id]
    assert ended.reason is FinishReason.END


def test_nothing_is_drafted_for_rows_that_draw(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    harness.generate("abcabcabc", max_tokens=30, temperature=1.0, seed=3)
    assert all(len(tokens) == 1 for step in harness.runner.fed[1:] for tokens, _ in step)


def test_nothing_is_drafted_for_a_full_batch(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW}, engine_max_batch=16)
    for number in range(16):
        harness.submit("abcabcabc", caller=str(number), max_tokens=20)
    harness.step(3)
    assert all(len(tokens) == 1 for tokens, _ in harness.runner.fed[2])


def test_draft_tokens_stay_within_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    request = harness.generate("a" * 120, max_tokens=136)  # the whole context
    assert len(request.ids) == 136
    assert request.reason is FinishReason.LENGTH


def test_prompt_logprobs_come_with_the_first_delta_and_are_the_same_in_chunks(tmp_path: Path) -> None:
    tokens = []
    for chunk in (3, 512):
        harness = LoopHarness(tmp_path / str(chunk), engine_prefill_tokens=chunk)
        harness.submit("x", max_tokens=100)
        harness.step()
        request = harness.submit("a prompt", prompt_logprobs=True, top_logprobs=2)
        harness.run_until_idle()
        assert all(delta.prompt is None for delta in request.deltas[1:])
        tokens.append(request.deltas[0].prompt)
    assert tokens[0] == tokens[1]
    assert tokens[0] is not None
    assert "".join(token.text for token in tokens[0]) == "a prompt"
    assert [token.logprob is None for token in tokens[0]] == [True] + [False] * 7
    assert [len(token.top) for token in tokens[0]] == [0] + [2] * 7


def test_prompt_logprobs_of_one_token_are_that_token(tmp_path: Path) -> None:
    request = LoopHarness(tmp_path).generate("a", prompt_logprobs=True)
    assert request.deltas[0].prompt is not None
    assert [(token.text, token.logprob) for token in request.deltas[0].prompt] == [("a", None)]


@pytest.mark.parametrize("chunk", [3, 512])
def test_a_prompt_is_scored_without_generating_as_it_is_with(tmp_path: Path, chunk: int) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=chunk)
    running = harness.submit("x", max_tokens=100)
    harness.step()
    generated = harness.submit("a prompt", prompt_logprobs=True, top_logprobs=2, max_tokens=1)
    scored = harness.submit("a prompt", prompt_logprobs=True, top_logprobs=2, max_tokens=0)
    harness.run_until_idle()
    (delta,) = scored.deltas
    assert (delta.text, delta.tokens, delta.finish_reason) == ("", (), FinishReason.LENGTH)
    assert delta.prompt == generated.deltas[0].prompt
    assert delta.usage is not None
    assert (delta.usage.prompt_tokens, delta.usage.completion_tokens) == (8, 0)
    assert running.reason is FinishReason.LENGTH


def test_a_prompt_as_long_as_the_context_and_one_of_a_token_can_be_scored(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    for prompt in ("a" * 136, "a"):
        (delta,) = harness.generate(prompt, prompt_logprobs=True, max_tokens=0).deltas
        assert delta.prompt is not None
        assert len(delta.prompt) == len(prompt)
    assert harness.runner.kv.used_slots == 0


def test_a_failing_step_ends_the_rows_that_it_fed_and_no_others(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=5)
    adapter = harness.adapter("a")
    running = harness.submit("running", adapter, max_tokens=50)
    harness.step()
    fed = harness.submit("0123456789", caller="1")
    unfed = harness.submit("not yet", caller="2")
    harness.runner.failures = 1
    harness.step()
    assert isinstance(running.error, GenerationFailed)
    assert adapter.digest[:12] in str(running.error)
    assert isinstance(fed.error, GenerationFailed)
    assert unfed.error is None
    assert (running.releases, fed.releases, unfed.releases) == (1, 1, 0)
    harness.run_until_idle()
    assert unfed.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_an_output_that_is_not_finite_ends_its_own_row_alone(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    bad, good = harness.adapter("bad"), harness.adapter("good")
    harness.runner.poisoned = {bad.digest}
    failing, fine = harness.submit("x", bad), harness.submit("x", good)
    harness.step()
    assert isinstance(failing.error, GenerationFailed)
    assert bad.digest[:12] in str(failing.error)
    assert harness.runner.kv.used_slots == 1
    harness.run_until_idle()
    assert fine.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_what_fails_in_one_request_ends_that_request_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = LoopHarness(tmp_path)
    breaking, fine = harness.submit("x"), harness.submit("y")

    def fail(_token_id: int) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(breaking.scheduled.sampler, "accept", fail)
    harness.run_until_idle()
    assert isinstance(breaking.error, GenerationFailed)
    assert fine.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_an_adapter_is_copied_in_parts_while_others_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES", 1)
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_STEPS", 0)
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    first = harness.submit("first", max_tokens=50)
    harness.step()
    cold = harness.submit("cold", harness.adapter("cold"), caller="1")
    behind = harness.submit("behind", caller="2")
    harness.step(4)
    assert (len(cold.ids), len(behind.ids)) == (0, 4)
    assert len(first.ids) >= 5
    harness.step()
    assert len(cold.ids) == 1


def test_others_wait_half_a_step_for_an_adapter_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, copied = FakeClock(), 0
    harness = LoopHarness(tmp_path)
    batch = harness.loop._batch
    harness.submit("first", max_tokens=50)
    harness.submit("cold", harness.adapter("cold"), caller="1")
    harness.step()

    def copy_some(_limit: int) -> bool:
        nonlocal copied
        copied += 1
        clock.now_s += 0.02
        return True

    monkeypatch.setattr("worker.inference.scheduler.batch.time.monotonic", clock)
    monkeypatch.setattr(harness.runner.bank, "copy_some", copy_some)
    monkeypatch.setattr(batch, "_is_ready", lambda row: row.request.adapter is None)
    monkeypatch.setattr(batch, "_step_s", 0.1)
    batch._copy_factors()
    assert copied == 3


def test_an_adapter_that_nobody_else_waits_for_is_copied_at_once(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    request = harness.submit("x", harness.adapter("cold"))
    harness.step()
    assert len(request.ids) == 1


def test_the_wait_for_an_adapters_columns_is_measured_once_for_all_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES", 1)
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_STEPS", 0)
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    harness.submit("first", max_tokens=50)
    harness.step()
    cold = harness.adapter("cold")
    requests = [harness.submit("x", cold, caller=caller) for caller in ("1", "2")]
    placed = functools.partial(harness.metrics.registry.get_sample_value, "loramill_engine_adapter_place_seconds_count")
    harness.step(4)
    assert placed() == 0
    harness.step()
    assert placed() == 1
    assert [len(one.ids) for one in requests] == [1, 1]
    harness.submit("again", cold)
    harness.run_until_idle()
    assert placed() == 1


def test_a_request_is_complete_when_its_place_is_free(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    free: list[bool] = []
    request = harness.prepare("x", harness.adapter("a"), max_tokens=1)
    request.scheduled._deliver = lambda _delta: free.append(harness.is_empty)
    harness.loop.submit(request.scheduled)
    harness.step()
    assert free == [True]


def test_a_request_waits_for_columns_without_holding_a_slot(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"columns": 16})
    wide = harness.submit("x", harness.adapter("wide", rank=16), max_tokens=5)
    other = harness.submit("y", harness.adapter("other", rank=8), max_tokens=2)
    harness.step()
    assert harness.runner.kv.used_slots == 1
    assert other.outcomes == []
    harness.run_until_idle()
    assert [len(request.ids) for request in (wide, other)] == [5, 2]


def test_a_request_waits_for_memory(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"kv_slots": 2})
    requests: list[TrackedRequest] = [
        harness.submit("x" * 100, caller=str(number), max_tokens=100) for number in range(2)
    ]
    harness.step()
    assert harness.loop.running_count == 1
    harness.run_until_idle()
    assert [request.reason for request in requests] == [FinishReason.LENGTH] * 2
