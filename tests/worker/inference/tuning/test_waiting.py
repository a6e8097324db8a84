"""Waiting for a core is seen, and only that."""

import os
import threading
import time

import pytest

from worker.inference.tuning.waiting import waited_s


def test_threads_that_share_a_core_wait_and_one_that_sleeps_does_not() -> None:
    if waited_s() == 0.0:
        pytest.skip("this kernel does not count")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and of those that it starts
    try:
        is_over = threading.Event()
        # outside Python's lock, or they would wait for that and for no core
        spinning = [threading.Thread(target=_spin, args=(is_over,)) for _ in range(2)]
        before_s = waited_s()
        for thread in spinning:
            thread.start()
        time.sleep(0.5)
        waited = waited_s() - before_s
        is_over.set()
        for thread in spinning:
            thread.join()
    finally:
        os.sched_setaffinity(0, cores)
    assert waited > 0.1


def _spin(is_over: threading.Event) -> None:
    while not is_over.is_set():
        sum(memoryview(bytes(2**16)).tobytes().count(number) for number in range(64))
