"""Threads whose torch operations each run on one core.

For work that is shared out by whole pieces: sharing each small operation out over cores that others keep busy takes
many times as long as doing it.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def serial_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Make so many threads; the caller's own keep their number of cores.

    torch keeps the number of threads for each thread, and gives new ones what was set last.
    """
    number = torch.get_num_threads()
    started = threading.Barrier(count + 1)
    threads = ThreadPoolExecutor(count, name, initializer=_stay_serial)
    for _ in range(count):
        threads.submit(started.wait)
    started.wait()
    torch.set_num_threads(number)
    return threads


def _stay_serial() -> None:
    torch.get_num_threads()  # the first call in a thread is what sets the number that others have
    torch.set_num_threads(1)
