"""What keeps a core busy beside a start is there meanwhile, and ends with it."""

import contextlib

import psutil

from benchmarks.serving.starts import busy_processes


def test_busy_processes_run_beside_the_block_and_end_with_it_even_if_it_fails() -> None:
    before = {child.pid for child in psutil.Process().children()}
    busy: list[psutil.Process] = []
    with contextlib.suppress(RuntimeError), busy_processes(2):
        busy += [child for child in psutil.Process().children() if child.pid not in before]
        raise RuntimeError
    assert len(busy) == 2
    assert not any(process.is_running() for process in busy)
