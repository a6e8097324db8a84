"""The decode loop by itself: its queue, and whom a cancellation or a stop ends."""

from collections.abc import Iterator

import pytest

from core.errors import EngineBusy, EngineUnavailable, ServiceError
from core.generation import Delta, SamplingParams
from tests.worker.inference.bench import Bench, Gate, load_fp32
from worker.inference.answers import Answer
from worker.inference.decode_loop import DecodeLoop
from worker.inference.decoding import Decoder
from worker.inference.lora import RowPlan, attach_lora


class HeldLoop:
    """A loop of one row and two places in its queue, whose first forward waits for ``gate``."""

    def __init__(self, bench: Bench) -> None:
        self._loaded = load_fp32(bench.base_folder)
        self.gate = Gate(self._loaded.model, closed_at=1)
        plan = RowPlan()
        attach_lora(self._loaded.model, plan)
        decoder = Decoder(self._loaded.model, plan, vocab_size=self._loaded.tokenizer.vocab_size)
        self.loop = DecodeLoop(decoder, base_model="tiny-phi", max_batch=1, max_waiting=2, on_death=lambda: None)
        self.released: list[Answer] = []
        self.outcomes: dict[Answer, list[Delta | ServiceError]] = {}

    def submit(self) -> Answer:
        outcomes: list[Delta | ServiceError] = []
        answer = Answer(
            b"prompt",
            None,
            SamplingParams(max_tokens=4),
            self._loaded.tokenizer,
            self._loaded.device,
            deliver=outcomes.append,
            release=lambda: self.released.append(answer),
        )
        self.outcomes[answer] = outcomes
        self.loop.submit(answer)
        return answer


@pytest.fixture
def held(bench: Bench) -> Iterator[HeldLoop]:
    held = HeldLoop(bench)
    held.loop.start()
    yield held
    held.gate.open()
    held.loop.stop()


def test_a_waiting_answer_that_is_cancelled_leaves_the_queue_at_once(held: HeldLoop) -> None:
    held.submit()
    assert held.gate.reached.wait(timeout=60)
    waiting = held.submit()
    assert held.loop.waiting_count == 1
    held.loop.cancel(waiting)
    assert held.loop.waiting_count == 0
    assert held.released == [waiting]
    assert held.outcomes[waiting] == []


def test_cancelling_what_is_over_does_nothing(held: HeldLoop) -> None:
    held.submit()
    assert held.gate.reached.wait(timeout=60)
    waiting = held.submit()
    held.loop.cancel(waiting)
    held.loop.cancel(waiting)
    assert held.released == [waiting]


def test_the_queue_takes_as_many_as_it_has_places(held: HeldLoop) -> None:
    held.submit()
    assert held.gate.reached.wait(timeout=60)
    held.submit()
    held.submit()
    with pytest.raises(EngineBusy) as caught:
        held.submit()
    assert caught.value.args == (2,)


def test_a_stop_ends_every_answer_and_refuses_new_ones(held: HeldLoop) -> None:
    running = held.submit()
    assert held.gate.reached.wait(timeout=60)
    waiting = held.submit()
    held.gate.open()
    held.loop.stop()
    assert set(held.released) == {running, waiting}
    assert len(held.released) == 2
    assert isinstance(held.outcomes[waiting][-1], EngineUnavailable)
    assert not held.loop.is_alive
    with pytest.raises(EngineUnavailable):
        held.submit()
