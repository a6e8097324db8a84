"""What a step feeds and what comes of it: joining, leaving, parts of prompts, guesses, failures."""

import functools
from pathlib import Path

import pytest

from core.errors import GenerationFailed
from core.serving.generation import FinishReason
from tests.worker.inference.scheduler.loop_harness import Asked, LoopHarness

LONG = "the quick brown fox jumps over the lazy dog, twice. " * 3
FEW = 47  # states of a text, which then soon repeats itself: by the ninth token, every four
TEMPTING = "".join(f"x{chr(byte)}" for byte in range(32, 128)) + "x"  # whatever comes next has stood behind an x before


def test_rows_join_and_leave_without_changing_each_other(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=3)
    adapters = [None, harness.adapter("a"), harness.adapter("b", rank=16)]
    cases = [(LONG[number : 3 + 17 * number], adapters[number % 3], 1 + 3 * (number % 4)) for number in range(8)]
    together = [harness.ask(prompt, adapter, max_tokens=tokens) for prompt, adapter, tokens in cases]
    harness.finish()
    alone = LoopHarness(tmp_path / "alone", engine_prefix_bytes=0)
    for asked, (prompt, adapter, tokens) in zip(together, cases, strict=True):
        assert asked.ids == alone.answer_alone(prompt, adapter, max_tokens=tokens).ids
        assert len(asked.ids) == tokens
        assert asked.releases == 1
    assert harness.is_empty


def test_a_waiting_request_joins_at_the_step_after_one_left(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=1)
    harness.ask("first", max_tokens=1)
    second = harness.ask("second", max_tokens=2)
    harness.turn()
    assert second.outcomes == []
    harness.turn()
    assert len(second.ids) == 1


@pytest.mark.parametrize("chunk", [1, 7, 32, 200])
def test_a_prompt_read_in_parts_is_answered_as_one_read_whole(tmp_path: Path, chunk: int) -> None:
    whole = LoopHarness(tmp_path / "whole").answer_alone(LONG, max_tokens=6)
    harness = LoopHarness(tmp_path / "parts", engine_prefill_tokens=chunk, engine_speculation=False)
    harness.ask("something that is answered meanwhile", max_tokens=200)
    harness.turn()
    beside = harness.ask(LONG, max_tokens=6)
    while not beside.ids:
        harness.turn()
    parts = [row for step in harness.runner.fed[1:] for row in step[1:]]
    assert [len(tokens) for tokens, _ in parts] == [
        min(chunk, len(LONG) - begin) for begin in range(0, len(LONG), chunk)
    ]
    assert [wanted for _, wanted in parts] == [0] * (len(parts) - 1) + [1]
    harness.finish()
    assert beside.ids == whole.ids


def test_answered_rows_get_a_token_in_every_step_of_a_long_prompt(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=10)
    first = harness.ask("x", max_tokens=100)
    harness.turn()
    harness.ask(LONG)
    for step in range(10):
        harness.turn()
        assert len(first.ids) >= 2 + step


def test_prompts_share_a_step_oldest_first(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=20)
    harness.ask("x", max_tokens=100)
    harness.turn()
    harness.ask("a" * 30, caller="a")
    harness.ask("b" * 30, caller="b")
    harness.turn(2)
    parts = [["".join(map(chr, tokens)) for tokens, _ in step[1:]] for step in harness.runner.fed[1:]]
    assert parts == [["a" * 20], ["a" * 10, "b" * 10]]


def test_with_nobody_answered_a_step_reads_a_long_prompt_whole(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=5)
    harness.ask(LONG)
    harness.turn()
    assert [len(tokens) for tokens, _ in harness.runner.fed[0]] == [len(LONG)]


def test_guesses_change_no_answer_and_save_steps(tmp_path: Path) -> None:
    runner = {"states": FEW}
    plain = LoopHarness(tmp_path / "plain", runner=runner, engine_speculation=False)
    guessing = LoopHarness(tmp_path / "guessing", runner=runner)
    answers = [
        [harness.ask(prompt, max_tokens=60, top_logprobs=2) for prompt in (TEMPTING, "hello", "x")]
        for harness in (plain, guessing)
    ]
    for harness in (plain, guessing):
        harness.finish()
        assert harness.is_empty
    for expected, found in zip(*answers, strict=True):
        assert [t for d in found.deltas for t in d.tokens] == [t for d in expected.deltas for t in d.tokens]
        assert found.text == expected.text
        assert len(found.ids) == 60
    assert any(len(delta.tokens) > 1 for asked in answers[1] for delta in asked.deltas), "guesses were right"
    assert sum(len(tokens) for step in guessing.runner.fed[1:] for tokens, _ in step) > 3 * 59, "and others were wrong"
    assert len(guessing.runner.fed) < 0.6 * len(plain.runner.fed)


def test_a_stop_inside_a_step_of_several_tokens_ends_the_answer_there(tmp_path: Path) -> None:
    runner = {"states": FEW}
    free = LoopHarness(tmp_path / "free", runner=runner, engine_speculation=False).answer_alone("abcab", max_tokens=60)
    stop = free.text[41:43] if free.text[41:43] not in free.text[:41] else free.text[30:41]
    outcomes = []
    for name, speculates in (("plain", False), ("guessing", True)):
        harness = LoopHarness(tmp_path / name, runner=runner, engine_speculation=speculates)
        asked = harness.answer_alone("abcab", max_tokens=60, stop=(stop,))
        assert harness.is_empty
        outcomes.append((asked.text, asked.ids, asked.reason, asked.deltas[-1].stop))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2:] == (FinishReason.STOP, stop)
    assert stop not in outcomes[0][0]


def test_an_end_token_among_checked_guesses_is_the_last(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    free = harness.answer_alone("abcab", max_tokens=60)
    cycle = free.ids[40]
    first = free.ids.index(cycle)
    harness.runner.ends_after = cycle
    ended = harness.answer_alone("abcab", max_tokens=60)
    assert ended.ids == [*free.ids[: first + 1], harness.runner.end_id]
    assert ended.reason is FinishReason.END


def test_rows_that_draw_are_never_guessed_for(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    harness.answer_alone("abcabcabc", max_tokens=30, temperature=1.0, seed=3)
    assert all(len(tokens) == 1 for step in harness.runner.fed[1:] for tokens, _ in step)


def test_a_full_batch_is_not_guessed_for(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW}, engine_max_batch=16)
    for number in range(16):
        harness.ask("abcabcabc", caller=str(number), max_tokens=20)
    harness.turn(3)
    assert all(len(tokens) == 1 for tokens, _ in harness.runner.fed[2])


def test_guesses_stay_within_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"states": FEW})
    asked = harness.answer_alone("a" * 120, max_tokens=136)  # the whole context
    assert len(asked.ids) == 136
    assert asked.reason is FinishReason.LENGTH


def test_prompt_logprobs_come_with_the_first_delta_and_are_the_same_in_parts(tmp_path: Path) -> None:
    tokens = []
    for chunk in (3, 512):
        harness = LoopHarness(tmp_path / str(chunk), engine_prefill_tokens=chunk)
        harness.ask("x", max_tokens=100)
        harness.turn()
        asked = harness.ask("a prompt", prompt_logprobs=True, top_logprobs=2)
        harness.finish()
        assert all(delta.prompt is None for delta in asked.deltas[1:])
        tokens.append(asked.deltas[0].prompt)
    assert tokens[0] == tokens[1]
    assert tokens[0] is not None
    assert "".join(token.text for token in tokens[0]) == "a prompt"
    assert [token.logprob is None for token in tokens[0]] == [True] + [False] * 7
    assert [len(token.top) for token in tokens[0]] == [0] + [2] * 7


def test_prompt_logprobs_of_one_token_are_that_token(tmp_path: Path) -> None:
    asked = LoopHarness(tmp_path).answer_alone("a", prompt_logprobs=True)
    assert asked.deltas[0].prompt is not None
    assert [(token.text, token.logprob) for token in asked.deltas[0].prompt] == [("a", None)]


def test_a_failing_step_ends_the_rows_that_it_fed_and_no_others(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_prefill_tokens=5)
    adapter = harness.adapter("a")
    running = harness.ask("running", adapter, max_tokens=50)
    harness.turn()
    fed = harness.ask("0123456789", caller="1")
    unfed = harness.ask("not yet", caller="2")
    harness.runner.failures = 1
    harness.turn()
    assert isinstance(running.error, GenerationFailed)
    assert adapter.digest[:12] in str(running.error)
    assert isinstance(fed.error, GenerationFailed)
    assert unfed.error is None
    assert (running.releases, fed.releases, unfed.releases) == (1, 1, 0)
    harness.finish()
    assert unfed.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_an_output_that_is_not_finite_ends_its_own_row_alone(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    bad, good = harness.adapter("bad"), harness.adapter("good")
    harness.runner.poisoned = {bad.digest}
    failing, fine = harness.ask("x", bad), harness.ask("x", good)
    harness.turn()
    assert isinstance(failing.error, GenerationFailed)
    assert bad.digest[:12] in str(failing.error)
    assert harness.runner.kv.used_slots == 1
    harness.finish()
    assert fine.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_what_fails_in_one_answer_ends_that_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = LoopHarness(tmp_path)
    breaking, fine = harness.ask("x"), harness.ask("y")

    def fail(_token_id: int) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(breaking.answer.sampler, "take", fail)
    harness.finish()
    assert isinstance(breaking.error, GenerationFailed)
    assert fine.reason is FinishReason.LENGTH
    assert harness.is_empty


def test_an_adapter_is_copied_in_parts_while_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES", 1)
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES_PER_S", 0)
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    first = harness.ask("first", max_tokens=50)
    harness.turn()
    cold = harness.ask("cold", harness.adapter("cold"), caller="1")
    behind = harness.ask("behind", caller="2")
    harness.turn(4)
    assert (len(cold.ids), len(behind.ids)) == (0, 4)
    assert len(first.ids) >= 5
    harness.turn()
    assert len(cold.ids) == 1


def test_an_adapter_that_nobody_else_waits_for_is_copied_at_once(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    asked = harness.ask("x", harness.adapter("cold"))
    harness.turn()
    assert len(asked.ids) == 1


def test_the_wait_for_an_adapters_columns_is_told_once_for_all_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES", 1)
    monkeypatch.setattr("worker.inference.scheduler.batch.COPIED_BYTES_PER_S", 0)
    harness = LoopHarness(tmp_path, runner={"groups": 5})
    harness.ask("first", max_tokens=50)
    harness.turn()
    cold = harness.adapter("cold")
    asked = [harness.ask("x", cold, caller=caller) for caller in ("1", "2")]
    placed = functools.partial(harness.metrics.registry.get_sample_value, "loramill_engine_adapter_place_seconds_count")
    harness.turn(4)
    assert placed() == 0
    harness.turn()
    assert placed() == 1
    assert [len(one.ids) for one in asked] == [1, 1]
    harness.ask("again", cold)
    harness.finish()
    assert placed() == 1


def test_a_request_is_complete_when_its_place_is_free(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    free: list[bool] = []
    asked = harness.prepare("x", harness.adapter("a"), max_tokens=1)
    asked.answer._deliver = lambda _delta: free.append(harness.is_empty)
    harness.loop.submit(asked.answer)
    harness.turn()
    assert free == [True]


def test_a_request_waits_for_columns_without_holding_a_slot(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"columns": 16})
    wide = harness.ask("x", harness.adapter("wide", rank=16), max_tokens=5)
    other = harness.ask("y", harness.adapter("other", rank=8), max_tokens=2)
    harness.turn()
    assert harness.runner.kv.used_slots == 1
    assert other.outcomes == []
    harness.finish()
    assert [len(asked.ids) for asked in (wide, other)] == [5, 2]


def test_a_request_waits_for_memory(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"kv_slots": 2})
    askeds: list[Asked] = [harness.ask("x" * 100, caller=str(number), max_tokens=100) for number in range(2)]
    harness.turn()
    assert harness.loop.running_count == 1
    harness.finish()
    assert [asked.reason for asked in askeds] == [FinishReason.LENGTH] * 2
