"""The decode loop by itself: its queue, fair turns, its thread, and whom a cancellation, a failure or a stop ends."""

import functools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import EngineBusy, EngineUnavailable, GenerationFailed
from core.serving.admission import Load
from core.serving.generation import FinishReason
from tests.worker.inference.scheduler.fake_runner import SHAPE
from tests.worker.inference.scheduler.loop_harness import Asked, Desk


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Desk]:
    """A started loop of one row and two places in its queue, whose forwards wait for the gate."""
    desk = Desk(tmp_path, engine_max_batch=1, engine_max_waiting=2)
    desk.runner.gate.clear()
    desk.loop.start()
    yield desk
    desk.runner.gate.set()
    desk.loop.stop()


def run_first(desk: Desk) -> Asked:
    asked = desk.ask("first", desk.adapter("first"))
    assert desk.runner.reached.wait(timeout=60)
    return asked


def jain(shares: list[int]) -> float:
    """Jain, Chiu and Hawe's index (1984): 1 where all have the same, 1/n where one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def wait_until_idle(desk: Desk) -> None:
    deadline = time.monotonic() + 60
    while desk.loop.running_count or desk.loop.waiting.requests:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_waiting_answer_that_is_cancelled_leaves_the_queue_at_once(held: Desk) -> None:
    run_first(held)
    waiting = held.ask("waiting")
    assert (held.loop.waiting.requests, held.loop.waiting.prompt_tokens) == (1, len("waiting"))
    held.loop.cancel(waiting.answer)
    assert held.loop.waiting.requests == 0
    assert (waiting.releases, waiting.outcomes) == (1, [])


def test_a_running_answer_that_is_cancelled_ends_with_its_step(held: Desk) -> None:
    running = run_first(held)
    held.loop.cancel(running.answer)
    assert running.releases == 0, "the step under way still uses its adapter"
    held.runner.gate.set()
    wait_until_idle(held)
    assert running.releases == 1
    assert len(held.runner.fed) == 1
    assert held.is_empty


def test_cancelling_what_is_over_does_nothing(held: Desk) -> None:
    run_first(held)
    waiting = held.ask("waiting")
    held.loop.cancel(waiting.answer)
    held.loop.cancel(waiting.answer)
    assert waiting.releases == 1


def test_the_queue_takes_as_many_as_it_has_places(held: Desk) -> None:
    run_first(held)
    held.ask("1")
    held.ask("2")
    with pytest.raises(EngineBusy) as caught:
        held.ask("3")
    assert caught.value.args == (2, 1)
    with pytest.raises(EngineBusy):
        held.loop.check_room(preparing=0)


def test_what_is_prepared_counts_as_waiting(held: Desk) -> None:
    held.loop.check_room(preparing=1)
    with pytest.raises(EngineBusy):
        held.loop.check_room(preparing=2)


def test_a_stop_ends_every_answer_and_refuses_new_ones(held: Desk) -> None:
    running = run_first(held)
    waiting = held.ask("waiting")
    held.runner.gate.set()
    held.loop.stop()
    assert (running.releases, waiting.releases) == (1, 1)
    assert isinstance(waiting.error, EngineUnavailable)
    assert not held.loop.is_alive
    assert held.deaths == 0
    with pytest.raises(EngineUnavailable):
        held.ask("too late")


def test_a_loop_that_hangs_in_a_step_is_not_alive(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_stall_s=0.05)
    desk.runner.gate.clear()
    desk.loop.start()
    assert desk.loop.is_alive
    run_first(desk)
    time.sleep(0.1)
    assert not desk.loop.is_alive
    assert desk.loop.last_beat_age_s > 0.05
    desk.runner.gate.set()
    wait_until_idle(desk)
    desk.loop.stop()


def test_a_loop_with_nothing_to_do_is_alive(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_stall_s=0.01)
    desk.loop.start()
    time.sleep(0.05)
    assert desk.loop.is_alive
    assert desk.loop.last_beat_age_s == 0
    desk.loop.stop()


def test_steps_that_keep_failing_end_the_loop(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_max_batch=1)
    desk.runner.failures = 3
    askeds = [desk.ask("x") for _ in range(4)]
    desk.loop.start()
    desk.loop._thread.join(timeout=60)
    assert [type(asked.error) for asked in askeds] == [*[GenerationFailed] * 3, EngineUnavailable]
    assert [asked.releases for asked in askeds] == [1] * 4
    assert desk.deaths == 1
    assert not desk.loop.is_alive


def test_a_step_that_succeeds_makes_failures_begin_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for _ in range(4):
        desk.runner.failures = 2
        failing = [desk.answer_alone("x") for _ in range(2)]
        assert all(asked.error for asked in failing)
        assert desk.answer_alone("x").reason is FinishReason.LENGTH


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_cancellation_in_any_state_frees_everything(tmp_path: Path, turns: int) -> None:
    """Waiting, copying its adapter, reading its prompt, being answered."""
    desk = Desk(tmp_path, engine_max_batch=2, engine_prefill_tokens=4)
    desk.ask("x", max_tokens=30)
    desk.turn()
    asked = desk.ask("0123456789", desk.adapter("a"), max_tokens=100)
    desk.turn(turns)
    desk.loop.cancel(asked.answer)
    told = len(asked.outcomes)
    desk.turn()
    assert asked.releases == 1
    assert len(asked.outcomes) == told
    assert (desk.runner.kv.used_slots, desk.runner.bank.pinned) == (1, 0)


def test_fifty_clients_that_vanish_leave_nothing_behind(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_max_batch=8, engine_prefill_tokens=16)
    random_numbers = random.Random(5)
    desk.loop.start()
    askeds = []
    for number in range(50):
        adapter = desk.adapter(f"a{number % 5}") if number % 3 else None
        askeds.append(desk.ask("prompt " * (1 + number % 9), adapter, caller=str(number % 4), max_tokens=150))
        time.sleep(random_numbers.random() * 0.003)
        desk.loop.cancel(random_numbers.choice(askeds).answer)
    for asked in askeds:
        desk.loop.cancel(asked.answer)
    wait_until_idle(desk)
    desk.loop.stop()
    assert [asked.releases for asked in askeds] == [1] * 50
    assert desk.is_empty
    assert desk.loop.waiting.requests == 0


def test_an_adapter_is_dropped_when_its_last_request_is_answered(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    adapter = desk.adapter("a")
    asked = desk.ask("x", adapter)
    desk.turn()
    desk.loop.drop_adapter(adapter.digest)
    desk.turn()
    assert len(desk.runner.bank.placed) == 1
    desk.finish()
    assert asked.reason is FinishReason.LENGTH
    assert len(desk.runner.bank.placed) == 0


def test_what_waits_is_told_by_adapter(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_max_batch=1)
    adapter = desk.adapter("a")
    desk.ask("runs")
    desk.turn()
    for prompt, whose in (("base", None), ("one", adapter), ("three", adapter)):
        desk.ask(prompt, whose)
    assert desk.loop.waiting_by_adapter == {None: Load(1, 4), adapter.digest: Load(2, 8)}
    desk.finish()
    assert desk.loop.waiting_by_adapter == {}


def test_the_loop_tells_what_memory_its_tokens_and_kept_prompts_take(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    told = [
        functools.partial(desk.metrics.registry.get_sample_value, f"loramill_engine_{name}_bytes")
        for name in ("kv_used", "prefix")
    ]
    desk.ask("p" * 20, max_tokens=3)
    desk.turn()
    assert [read() for read in told] == [20 * SHAPE.bytes_per_token, 16 * SHAPE.bytes_per_token]
    desk.turn()
    assert told[0]() == 21 * SHAPE.bytes_per_token
    desk.finish()
    assert [read() for read in told] == [0, 16 * SHAPE.bytes_per_token]


def test_the_loop_measures_its_speed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert (desk.loop.speed.prefill_tokens_per_s, desk.loop.speed.decode_tokens_per_s) == (0, 0)
    desk.answer_alone("some prompt", max_tokens=8)
    assert desk.loop.speed.prefill_tokens_per_s > 0
    assert desk.loop.speed.decode_tokens_per_s > 0
    assert desk.loop.speed.seconds_for(1, 100) > 0


def test_a_request_for_which_room_cannot_be_made_fails_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)

    def fail(_tokens: int) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(desk.runner.kv, "take", fail)
        failing = desk.ask("x")
        desk.turn()
    assert isinstance(failing.error, GenerationFailed)
    assert failing.releases == 1
    assert desk.answer_alone("x").reason is FinishReason.LENGTH


def test_eight_callers_of_whom_one_asks_much_are_served_alike(tmp_path: Path) -> None:
    desk = Desk(tmp_path, engine_max_batch=4, engine_max_waiting=1000, engine_speculation=False)
    asked = []
    for number in range(60):  # the heavy caller was there first, with longer prompts and answers
        asked.append(("heavy", desk.ask(f"{number:04} " * 12, caller="heavy", max_tokens=20)))
    for caller in "abcdefg":
        for number in range(20):
            asked.append((caller, desk.ask(f"{caller}{number:04} " * 4, caller=caller, max_tokens=10)))
    while all(any(who == caller and not one.reason for who, one in asked) for caller in ("heavy", *"abcdefg")):
        desk.turn()
    served: Counter[str] = Counter()
    for caller, one in asked:
        served[caller] += 2 * len(one.ids) + (one.answer.prompt_tokens if one.ids else 0)
    assert jain(list(served.values())) > 0.95
    first_come = [served["heavy"] + sum(served.values())] + [0] * 7
    assert jain(first_come) < 0.2, "the index tells the difference"


def test_a_request_that_does_not_fit_is_not_starved(tmp_path: Path) -> None:
    desk = Desk(tmp_path, runner={"kv_slots": 2})
    desk.loop._queue._patience_s = 0.0
    desk.ask("small", caller="a", max_tokens=3)
    desk.turn()
    large = desk.ask("x" * 100, caller="large", max_tokens=100)
    later = [desk.ask("small", caller=str(number), max_tokens=3) for number in range(20)]
    desk.turn(4)
    assert large.ids, "it began as soon as the one before it was complete"
    desk.finish()
    assert all(one.reason for one in later)
