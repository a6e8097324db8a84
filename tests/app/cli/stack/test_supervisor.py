"""The supervisor with small dummy processes: restart, order, deadlines, and what a SIGKILL of it leaves."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.cli.stack.liveness import FrozenProcess
from app.cli.stack.process_log import ProcessLog, Terminal
from app.cli.stack.supervisor import Backoff, Child, ChildSpec, Stop, Supervisor, Watch
from core.errors import StartRefused

QUICK = Backoff(first_s=0.05, longest_s=0.1, healthy_after_s=60)
DEADLINE_S = 20.0

# appends its name to a file when it starts and when it is told to stop
POLITE = """
import signal, sys, time
name, path = sys.argv[1:]
def note(what):
    with open(path, "a") as file:
        file.write(f"{what} {name}\\n")
def stop(*_):
    note("stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("start")
time.sleep(600)
"""

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)

SUPERVISOR = f"""
import os, sys
from pathlib import Path
from app.cli.stack.process_log import ProcessLog, Terminal
from app.cli.stack.supervisor import Backoff, Child, ChildSpec, Stop, Supervisor
folder = Path(sys.argv[1])
terminal = Terminal(sys.stdout, ["a", "b"])
sleep = (sys.executable, "-c", "import time; time.sleep(600)")
polite = (sys.executable, "-c", {POLITE!r}, "b", str(folder / "notes"))
specs = [ChildSpec("a", sleep, 1.0), ChildSpec("b", polite, 1.0)]
children = [Child(spec, os.environ, ProcessLog(spec.name, folder, terminal), Backoff()) for spec in specs]
Supervisor(children).run(Stop())
"""


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


class SupervisorHarness:
    """A supervisor whose `run` happens in the main thread while the test's steps happen in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.screen = io.StringIO()
        self.notes = folder / "notes"
        self.stop = Stop()
        self.children: list[Child] = []
        self.logs: list[ProcessLog] = []

    def add(self, name: str, script: str, *arguments: str, stop_s: float = 10.0, is_early: bool = False) -> Child:
        spec = ChildSpec(name, (sys.executable, "-c", script, *arguments), stop_s, is_early)
        log = ProcessLog(name, self.folder / "logs", Terminal(self.screen, ["one", "two", "three"]))
        self.logs.append(log)
        self.children.append(Child(spec, os.environ, log, QUICK))
        return self.children[-1]

    def add_polite(self, name: str, *, is_early: bool = False) -> Child:
        return self.add(name, POLITE, name, str(self.notes), is_early=is_early)

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def run(
        self, steps: Callable[[], None], watch: Watch | None = None, prepare: Callable[[], None] = lambda: None
    ) -> None:
        failures: list[BaseException] = []

        def perform() -> None:
            try:
                steps()
            except BaseException as failure:  # told to the test below
                failures.append(failure)
            finally:
                self.stop.request()

        thread = threading.Thread(target=perform)
        thread.start()
        Supervisor(self.children, watch).run(self.stop, prepare)
        thread.join()
        if failures:
            raise failures[0]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SupervisorHarness]:
    harness = SupervisorHarness(tmp_path)
    yield harness
    for log in harness.logs:
        log.close()


def test_children_stop_in_reverse_order(harness: SupervisorHarness) -> None:
    for name in ("one", "two", "three"):
        harness.add_polite(name)
    harness.run(lambda: eventually(lambda: len(harness.lines()) == 3))
    assert sorted(harness.lines()[:3]) == ["start one", "start three", "start two"]
    assert harness.lines()[3:] == ["stop three", "stop two", "stop one"]


def test_what_is_prepared_is_done_beside_early_children_and_before_the_others(harness: SupervisorHarness) -> None:
    harness.add_polite("one")
    harness.add_polite("two", is_early=True)

    def prepare() -> None:
        eventually(lambda: harness.lines() == ["start two"])
        time.sleep(0.3)  # what starts too early has started by then
        harness.notes.write_text("\n".join([*harness.lines(), "prepared", ""]))

    harness.run(lambda: eventually(lambda: len(harness.lines()) == 3), prepare=prepare)
    assert harness.lines() == ["start two", "prepared", "start one", "stop two", "stop one"]


@pytest.mark.parametrize("how", ["a failure", "a wish to stop"])
def test_after_a_preparation_that_came_to_nothing_no_other_child_starts(harness: SupervisorHarness, how: str) -> None:
    harness.add_polite("one")
    harness.add_polite("two", is_early=True)

    def prepare() -> None:
        eventually(lambda: harness.lines() == ["start two"])
        if how == "a failure":
            raise StartRefused("it did not work")
        eventually(lambda: harness.stop.requested)  # as the steps below end so

    with pytest.raises(StartRefused) if how == "a failure" else contextlib.nullcontext():
        harness.run(lambda: eventually(lambda: bool(harness.lines())), prepare=prepare)
    assert harness.lines() == ["start two", "stop two"]


def test_a_killed_child_starts_again_and_the_others_stay(harness: SupervisorHarness) -> None:
    killed, spared = harness.add_polite("one"), harness.add_polite("two")
    pids: list[int | None] = []

    def steps() -> None:
        eventually(lambda: len(harness.lines()) == 2)
        pids.extend([killed.pid, spared.pid])
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda: len(harness.lines()) == 3)
        pids.extend([killed.pid, spared.pid])

    harness.run(steps)
    assert harness.lines()[2] == "start one"
    assert pids[0] != pids[2]
    assert pids[1] == pids[3]
    assert "one   | ended (killed by SIGKILL); starts again in 0.05 s" in harness.screen.getvalue()


def test_a_child_that_keeps_failing_waits_longer_each_time(harness: SupervisorHarness) -> None:
    harness.add("one", "import sys; sys.exit(3)")
    harness.run(lambda: eventually(lambda: harness.screen.getvalue().count("exit status 3") >= 3))
    delays = [line.split(" in ")[1] for line in harness.screen.getvalue().splitlines() if "exit status 3" in line]
    assert delays[:3] == ["0.05 s", "0.1 s", "0.1 s"]


def test_the_delay_doubles_up_to_its_longest() -> None:
    backoff = Backoff(first_s=0.5, longest_s=30)
    assert [backoff.delay_s(failures) for failures in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_a_child_that_ignores_sigterm_is_killed(harness: SupervisorHarness) -> None:
    child = harness.add("one", STUBBORN, stop_s=0.2)
    harness.run(lambda: eventually(lambda: "deaf" in harness.screen.getvalue()))
    assert child.pid is None
    assert "did not stop in time; killed" in harness.screen.getvalue()


def test_hurry_cuts_a_long_deadline_short(harness: SupervisorHarness) -> None:
    harness.add("one", STUBBORN, stop_s=3600)

    def steps() -> None:
        eventually(lambda: "deaf" in harness.screen.getvalue())
        harness.stop.request()
        harness.stop.request()

    harness.run(steps)  # would outlast the test's own timeout otherwise
    assert "killed" in harness.screen.getvalue()


class FoundFrozen:
    """A watch that finds what the test puts into it, each once."""

    def __init__(self) -> None:
        self.found: list[FrozenProcess] = []

    def look(self) -> list[FrozenProcess]:
        found, self.found = self.found, []
        return found

    def find(self, pid: int | None, *, must_end: bool = True) -> None:
        assert pid is not None
        self.found = [FrozenProcess(pid, (pid, os.getpid()), f"process {pid} is frozen", must_end)]


class TestFrozenProcesses:
    def test_that_must_end_are_killed_and_start_again(self, harness: SupervisorHarness) -> None:
        frozen, watch = harness.add_polite("one"), FoundFrozen()
        harness.add_polite("two")

        def steps() -> None:
            eventually(lambda: len(harness.lines()) == 2)
            assert frozen.pid is not None
            os.kill(frozen.pid, signal.SIGSTOP)
            watch.find(frozen.pid)
            eventually(lambda: len(harness.lines()) == 3)

        harness.run(steps, watch)
        assert harness.lines()[2] == "start one"
        assert "is frozen; killed\none   | ended (killed by SIGKILL)" in harness.screen.getvalue()

    def test_that_need_not_end_are_only_told(self, harness: SupervisorHarness) -> None:
        traced, watch = harness.add_polite("one"), FoundFrozen()

        def steps() -> None:
            eventually(lambda: len(harness.lines()) == 1)
            watch.find(traced.pid, must_end=False)
            eventually(lambda: "is frozen" in harness.screen.getvalue())

        harness.run(steps, watch)
        assert harness.lines() == ["start one", "stop one"]

    def test_that_are_not_of_the_stack_are_left_alone(self, harness: SupervisorHarness) -> None:
        harness.add_polite("one")
        watch = FoundFrozen()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign:

            def steps() -> None:
                eventually(lambda: len(harness.lines()) == 1)
                watch.find(foreign.pid)
                eventually(lambda: "it is not of this stack, so it is left alone" in harness.screen.getvalue())

            harness.run(steps, watch)
            foreign.communicate(b"\n")
        assert foreign.returncode == 0


def test_killing_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)])
    me = psutil.Process(process.pid)
    notes = tmp_path / "notes"
    try:
        eventually(lambda: len(me.children()) == 2 and notes.exists())
        children = me.children()
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert notes.read_text() == "start b\n"
