"""A shared trainer's seats, without jobs: who waits for whom, and when the process ends."""

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker.trainer_process.messages import Interrupted, KeepAlive, Message, PhaseStarted, Said
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_DONE, STOP
from worker.trainer_process.shared import SharedTrainer, TrainerSeat


def _waits() -> None:
    """Stand in for a heartbeat's sign."""


class ScriptedProcess:
    """A trainer's process that says what a test has it say, and lives until it is killed or ends."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.said: list[Said] = []

    def listen_to_all(self, timeout_s: float) -> list[Said]:
        time.sleep(min(timeout_s, 0.01))
        return self.drain_all()

    def drain_all(self) -> list[Said]:
        said, self.said = self.said, []
        return said

    def kill(self) -> None:
        if self.exit_code is None:
            self.exit_code = -signal.SIGKILL

    def last_lines(self, count: int) -> list[str]:
        return ["the end"][:count]

    def __enter__(self) -> "ScriptedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Gathered:
    """A shared trainer whose runs have taken their seats."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.process, self.started_with = ScriptedProcess(), list[Path]()
        self.trainer = SharedTrainer(len(folders), self._start)  # type: ignore[arg-type]
        self.coordinator = threading.Thread(target=self.trainer.run)
        self.coordinator.start()
        seats: dict[Path, TrainerSeat] = {}
        threads = [
            threading.Thread(target=lambda f=folder: seats.update({f: self.trainer.seat(f, _waits)}))
            for folder in folders
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seats = [seats[folder] for folder in self.started_with]

    def _start(self, folders: Sequence[Path]) -> ScriptedProcess:
        self.started_with = list(folders)
        return self.process

    def says(self, run: int, message: Message) -> None:
        self.process.said.append(Said(run=run, message=message))

    def ends(self, code: int) -> None:
        self.process.exit_code = code
        self.coordinator.join()


@pytest.fixture
def gathered(tmp_path: Path) -> Gathered:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    return Gathered(folders)


def hear(seat: TrainerSeat) -> list[Message]:
    return seat.listen(10)


def test_each_hears_its_own_and_of_the_others_that_the_process_lives(gathered: Gathered) -> None:
    gathered.says(1, PhaseStarted(name="loading"))
    assert [hear(seat) for seat in gathered.seats] == [[KeepAlive()], [PhaseStarted(name="loading")]]
    gathered.ends(EXIT_DONE)


def test_a_run_has_ended_when_it_says_so_whatever_the_process_does(gathered: Gathered) -> None:
    gathered.says(0, Interrupted())
    assert hear(gathered.seats[0]) == [Interrupted()]
    assert [seat.exit_code for seat in gathered.seats] == [EXIT_AGAIN, None]
    gathered.ends(-signal.SIGSEGV)
    assert [seat.exit_code for seat in gathered.seats] == [EXIT_AGAIN, -signal.SIGSEGV]


def test_one_that_is_killed_is_told_to_stop_and_the_process_goes_on_for_the_other(gathered: Gathered) -> None:
    first, second = gathered.seats
    first.kill()
    assert (first.folder / STOP).exists()
    assert not (second.folder / STOP).exists()
    assert first.exit_code == -signal.SIGKILL
    gathered.says(0, PhaseStarted(name="late"))
    gathered.says(1, PhaseStarted(name="training"))
    assert hear(second) == [PhaseStarted(name="training")]
    assert first.drain() == []
    assert gathered.process.exit_code is None
    second.kill()
    gathered.coordinator.join()
    assert gathered.process.exit_code == -signal.SIGKILL


def test_who_stays_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    process, started = ScriptedProcess(), list[Path]()
    process.exit_code = EXIT_DONE

    def start(folders: Sequence[Path]) -> ScriptedProcess:
        started.extend(folders)
        return process

    trainer = SharedTrainer(2, start)  # type: ignore[arg-type]
    sits = threading.Thread(target=lambda: trainer.seat(tmp_path, _waits))
    sits.start()
    trainer.stay_away()
    trainer.run()
    sits.join()
    assert started == [tmp_path]


def test_where_all_stay_away_nothing_is_started() -> None:
    def start(_: Sequence[Path]) -> ScriptedProcess:
        raise AssertionError("nobody is there")

    trainer = SharedTrainer(1, start)  # type: ignore[arg-type]
    trainer.stay_away()
    trainer.run()


def test_a_process_that_cannot_be_started_is_refused_to_each(tmp_path: Path) -> None:
    def start(_: Sequence[Path]) -> ScriptedProcess:
        raise FileNotFoundError("no such program")

    trainer, refused = SharedTrainer(2, start), list[str]()  # type: ignore[arg-type]

    def sit() -> None:
        try:
            trainer.seat(tmp_path, _waits)
        except FileNotFoundError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=sit) for _ in range(2)]
    for thread in threads:
        thread.start()
    trainer.run()
    for thread in threads:
        thread.join()
    assert refused == ["no such program"] * 2


def test_a_process_that_stays_after_its_last_run_is_ended(gathered: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.trainer_process.shared._ENDS_WITHIN_S", 0.05)
    for number in (0, 1):
        gathered.says(number, Interrupted())
    gathered.coordinator.join()
    assert gathered.process.exit_code == -signal.SIGKILL
    assert [seat.exit_code for seat in gathered.seats] == [EXIT_AGAIN] * 2
