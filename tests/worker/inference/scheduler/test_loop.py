"""The scheduler by itself: its queue, fair turns, its thread, and whom a cancellation, a failure or a stop ends."""

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
from tests.worker.inference.scheduler.loop_harness import LoopHarness, TrackedRequest


@pytest.fixture
def held(tmp_path: Path) -> Iterator[LoopHarness]:
    """A started loop of one row and two places in its queue, whose forwards wait for the gate."""
    harness = LoopHarness(tmp_path, engine_max_batch=1, engine_max_waiting=2)
    harness.runner.gate.clear()
    harness.loop.start()
    yield harness
    harness.runner.gate.set()
    harness.loop.stop()


def run_first(harness: LoopHarness) -> TrackedRequest:
    request = harness.submit("first", harness.adapter("first"))
    assert harness.runner.reached.wait(timeout=60)
    return request


def jain(shares: list[int]) -> float:
    """Jain, Chiu and Hawe's index (1984): 1 where all have the same, 1/n where one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def wait_until_idle(harness: LoopHarness) -> None:
    deadline = time.monotonic() + 60
    while harness.loop.running_count or harness.loop.waiting.requests:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_waiting_request_that_is_cancelled_leaves_the_queue_at_once(held: LoopHarness) -> None:
    run_first(held)
    waiting = held.submit("waiting")
    assert (held.loop.waiting.requests, held.loop.waiting.prompt_tokens) == (1, len("waiting"))
    held.loop.cancel(waiting.scheduled)
    assert held.loop.waiting.requests == 0
    assert (waiting.releases, waiting.outcomes) == (1, [])


def test_a_running_request_that_is_cancelled_ends_with_its_step(held: LoopHarness) -> None:
    running = run_first(held)
    held.loop.cancel(running.scheduled)
    assert running.releases == 0, "the step under way still uses its adapter"
    held.runner.gate.set()
    wait_until_idle(held)
    assert running.releases == 1
    assert len(held.runner.fed) == 1
    assert held.is_empty


def test_cancelling_what_is_over_does_nothing(held: LoopHarness) -> None:
    run_first(held)
    waiting = held.submit("waiting")
    held.loop.cancel(waiting.scheduled)
    held.loop.cancel(waiting.scheduled)
    assert waiting.releases == 1


def test_the_queue_takes_as_many_as_it_has_places(held: LoopHarness) -> None:
    run_first(held)
    held.submit("1")
    held.submit("2")
    with pytest.raises(EngineBusy) as caught:
        held.submit("3")
    assert caught.value.args == (2, 1)
    with pytest.raises(EngineBusy):
        held.loop.check_room(preparing=0)


def test_what_is_prepared_counts_as_waiting(held: LoopHarness) -> None:
    held.loop.check_room(preparing=1)
    with pytest.raises(EngineBusy):
        held.loop.check_room(preparing=2)


def test_a_stop_ends_every_request_and_refuses_new_ones(held: LoopHarness) -> None:
    running = run_first(held)
    waiting = held.submit("waiting")
    held.runner.gate.set()
    held.loop.stop()
    assert (running.releases, waiting.releases) == (1, 1)
    assert isinstance(waiting.error, EngineUnavailable)
    assert not held.loop.is_alive
    assert held.deaths == 0
    with pytest.raises(EngineUnavailable):
        held.submit("too late")


def told_age_s(harness: LoopHarness) -> float:
    age_s = harness.metrics.registry.get_sample_value("loramill_engine_heartbeat_age_seconds")
    assert age_s is not None
    return age_s


def test_a_loop_that_hangs_in_a_step_is_not_alive(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_stall_s=0.05)
    harness.runner.gate.clear()
    harness.loop.start()
    assert harness.loop.is_alive
    run_first(harness)
    time.sleep(0.1)
    assert not harness.loop.is_alive
    assert told_age_s(harness) > 0.05
    harness.runner.gate.set()
    wait_until_idle(harness)
    harness.loop.stop()


def test_a_loop_with_nothing_to_do_is_alive(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_stall_s=0.01)
    harness.loop.start()
    time.sleep(0.05)
    assert harness.loop.is_alive
    assert told_age_s(harness) == 0
    harness.loop.stop()


def test_steps_that_keep_failing_end_the_loop(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=1)
    harness.runner.failures = 3
    requests = [harness.submit("x") for _ in range(4)]
    harness.loop.start()
    harness.loop._thread.join(timeout=60)
    assert [type(request.error) for request in requests] == [*[GenerationFailed] * 3, EngineUnavailable]
    assert [request.releases for request in requests] == [1] * 4
    assert harness.deaths == 1
    assert not harness.loop.is_alive


def test_a_step_that_succeeds_makes_failures_begin_anew(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    for _ in range(4):
        harness.runner.failures = 2
        failing = [harness.generate("x") for _ in range(2)]
        assert all(request.error for request in failing)
        assert harness.generate("x").reason is FinishReason.LENGTH


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_cancellation_in_any_state_frees_everything(tmp_path: Path, steps: int) -> None:
    """Waiting, copying its adapter, in prefill, decoding."""
    harness = LoopHarness(tmp_path, engine_max_batch=2, engine_prefill_tokens=4)
    harness.submit("x", max_tokens=30)
    harness.step()
    request = harness.submit("0123456789", harness.adapter("a"), max_tokens=100)
    harness.step(steps)
    harness.loop.cancel(request.scheduled)
    delivered = len(request.outcomes)
    harness.step()
    assert request.releases == 1
    assert len(request.outcomes) == delivered
    assert (harness.runner.kv.used_slots, harness.runner.bank.pinned) == (1, 0)


def test_fifty_clients_that_vanish_leave_nothing_behind(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=8, engine_prefill_tokens=16)
    random_numbers = random.Random(5)
    harness.loop.start()
    requests = []
    for number in range(50):
        adapter = harness.adapter(f"a{number % 5}") if number % 3 else None
        requests.append(harness.submit("prompt " * (1 + number % 9), adapter, caller=str(number % 4), max_tokens=150))
        time.sleep(random_numbers.random() * 0.003)
        harness.loop.cancel(random_numbers.choice(requests).scheduled)
    for request in requests:
        harness.loop.cancel(request.scheduled)
    wait_until_idle(harness)
    harness.loop.stop()
    assert [request.releases for request in requests] == [1] * 50
    assert harness.is_empty
    assert harness.loop.waiting.requests == 0


def test_an_adapter_is_dropped_when_its_last_request_is_answered(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    adapter = harness.adapter("a")
    request = harness.submit("x", adapter)
    harness.step()
    harness.loop.drop_adapter(adapter.digest)
    harness.step()
    assert len(harness.runner.bank.placed) == 1
    harness.run_until_idle()
    assert request.reason is FinishReason.LENGTH
    assert len(harness.runner.bank.placed) == 0


def test_what_waits_is_counted_by_adapter(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=1)
    adapter = harness.adapter("a")
    harness.submit("runs")
    harness.step()
    for prompt, whose in (("base", None), ("one", adapter), ("three", adapter)):
        harness.submit(prompt, whose)
    assert harness.loop.waiting_by_adapter == {None: Load(1, 4), adapter.digest: Load(2, 8)}
    harness.run_until_idle()
    assert harness.loop.waiting_by_adapter == {}


def test_the_loop_reports_what_memory_its_tokens_and_kept_prompts_take(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    read_bytes = [
        functools.partial(harness.metrics.registry.get_sample_value, f"loramill_engine_{name}_bytes")
        for name in ("kv_used", "prefix")
    ]
    harness.submit("p" * 20, max_tokens=3)
    harness.step()
    assert [read() for read in read_bytes] == [20 * SHAPE.bytes_per_token, 16 * SHAPE.bytes_per_token]
    harness.step()
    assert read_bytes[0]() == 21 * SHAPE.bytes_per_token
    harness.run_until_idle()
    assert [read() for read in read_bytes] == [0, 16 * SHAPE.bytes_per_token]


def test_the_loop_counts_what_its_steps_and_requests_take(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    harness.generate("prompt", max_tokens=8)
    harness.generate("prompt", harness.adapter("a"), max_tokens=2)
    read = {
        (sample.name.removeprefix("loramill_engine_"), *sample.labels.values()): sample.value
        for family in harness.metrics.registry.collect()
        for sample in family.samples
    }
    assert (read["prefill_tokens_total",], read["decode_tokens_total",]) == (12, 10)
    assert read["step_seconds_count",] == read["step_rows_sum",] == read["step_rows_count",] >= 3
    assert (read["first_token_seconds_count",], read["inter_token_seconds_count",]) == (2, 8)
    assert (read["finished_requests_total", "length"], read["cached_prompt_tokens_total",]) == (2, 0)
    assert read["adapter_completion_tokens_total", "none"] == 8
    assert sum(value for (name, *_), value in read.items() if name == "adapter_prompt_tokens_total") == 12


def test_the_loop_measures_its_throughput(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path)
    throughput = harness.loop.throughput
    assert throughput.prefill_tokens_per_s is throughput.decode_tokens_per_s is None
    harness.generate("some prompt", max_tokens=8)
    measured = (
        throughput.prefill_tokens_per_s,
        throughput.decode_tokens_per_s,
        throughput.seconds_for(1, 100),
    )
    assert all(number is not None and number > 0 for number in measured)


def test_a_request_for_which_room_cannot_be_made_fails_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = LoopHarness(tmp_path)

    def fail(_tokens: int) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(harness.runner.kv, "allocate", fail)
        failing = harness.submit("x")
        harness.step()
    assert isinstance(failing.error, GenerationFailed)
    assert failing.releases == 1
    assert harness.generate("x").reason is FinishReason.LENGTH


def test_eight_callers_of_whom_one_asks_much_are_served_alike(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, engine_max_batch=4, engine_max_waiting=1000, engine_speculation=False)
    requests = []
    for number in range(60):  # the heavy caller was there first, with longer prompts and completions
        requests.append(("heavy", harness.submit(f"{number:04} " * 12, caller="heavy", max_tokens=20)))
    for caller in "abcdefg":
        for number in range(20):
            requests.append((caller, harness.submit(f"{caller}{number:04} " * 4, caller=caller, max_tokens=10)))
    while all(any(who == caller and not one.reason for who, one in requests) for caller in ("heavy", *"abcdefg")):
        harness.step()
    served: Counter[str] = Counter()
    for caller, one in requests:
        served[caller] += 2 * len(one.ids) + (one.scheduled.prompt_tokens if one.ids else 0)
    assert jain(list(served.values())) > 0.95
    first_come = [served["heavy"] + sum(served.values())] + [0] * 7
    assert jain(first_come) < 0.2, "the index tells the difference"


def test_a_request_that_does_not_fit_is_not_starved(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"kv_slots": 2})
    harness.loop._queue._patience_s = 0.0
    harness.submit("small", caller="a", max_tokens=3)
    harness.step()
    large = harness.submit("x" * 100, caller="large", max_tokens=100)
    later = [harness.submit("small", caller=str(number), max_tokens=3) for number in range(20)]
    harness.step(4)
    assert large.ids, "it began as soon as the one before it was complete"
    harness.run_until_idle()
    assert all(one.reason for one in later)
