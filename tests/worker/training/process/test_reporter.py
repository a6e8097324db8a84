import os

from core.jobs.events import EventLevel
from tests.worker.training.run_folders import RecordingReporter
from worker.trainer_process.messages import KeepAlive, Note, PhaseStarted, parse
from worker.training.process.reporter import ALIVE_INTERVAL_S, PipeReporter, note


class SetClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_work_without_news_says_alive_now_and_then() -> None:
    reading, writing = os.pipe()
    clock = SetClock()
    reporter = PipeReporter(writing, clock)
    for clock.now_s in (0.0, ALIVE_INTERVAL_S / 2, ALIVE_INTERVAL_S, ALIVE_INTERVAL_S * 1.5):
        reporter.keep_alive()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert [parse(line).message for line in pipe] == [KeepAlive()]


def test_news_stands_for_being_alive() -> None:
    reading, writing = os.pipe()
    clock = SetClock()
    reporter = PipeReporter(writing, clock)
    clock.now_s = ALIVE_INTERVAL_S
    reporter.send(PhaseStarted(name="training"))
    reporter.keep_alive()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert [parse(line).message for line in pipe] == [PhaseStarted(name="training")]


def test_a_note_carries_its_numbers() -> None:
    reporter = RecordingReporter()
    note(reporter, EventLevel.WARN, "3 dropped", lines=[1, 2, 3])
    assert reporter.messages == [Note(level=EventLevel.WARN, message="3 dropped", data={"lines": [1, 2, 3]})]
