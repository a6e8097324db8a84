"""Each thread that shares work out by whole pieces computes on one core, and nobody else is held to that."""

import threading

import torch

from worker.inference.native.serial_threads import serial_threads


def test_each_thread_computes_on_one_core_and_the_callers_stays_as_it_was() -> None:
    torch.set_num_threads(3)
    meeting = threading.Barrier(2)

    def cores(_: int) -> int:
        meeting.wait(timeout=60)  # so that both threads take part
        return torch.get_num_threads()

    with serial_threads(2, "pieces") as threads:
        assert list(threads.map(cores, range(2))) == [1, 1]
    assert torch.get_num_threads() == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]
