"""Runs jobs as a worker does, in the test's thread or beside it."""

import threading
import time
from collections.abc import Callable

from core.settings import Settings
from tests.worker.conftest import Home
from worker.runner import run_next
from worker.stop import Stop


def run(home: Home, settings: Settings | None = None, stop: Stop | None = None) -> bool:
    return run_next(home.runtime(settings), stop or Stop())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)


def in_background(home: Home, settings: Settings | None = None, stop: Stop | None = None) -> threading.Thread:
    thread = threading.Thread(target=run, args=(home, settings, stop))
    thread.start()
    return thread
