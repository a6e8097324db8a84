"""How a process gives way: by its own niceness, and by that of its session."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.process.priority import give_way


@contextlib.contextmanager
def running(*, leads_session: bool) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=leads_session
    )
    try:
        yield process.pid
    finally:
        process.communicate(b"\n")


def group_niceness(pid: int) -> int:
    group = Path(f"/proc/{pid}/autogroup")
    if not group.exists():
        pytest.skip("this kernel groups no processes by their sessions")
    return int(group.read_text("ascii").split()[-1])


def test_a_process_is_at_least_so_nice() -> None:
    with running(leads_session=True) as pid:
        for niceness in (0, 5, 12):
            give_way(pid, niceness)
            assert os.getpriority(os.PRIO_PROCESS, pid) == max(niceness, os.getpriority(os.PRIO_PROCESS, 0))


def test_a_session_of_its_own_is_as_nice_as_it() -> None:
    with running(leads_session=True) as pid:
        for niceness in (7, 12):  # a second change soon after the first is one that Linux may put off
            give_way(pid, niceness)
            assert group_niceness(pid) == max(niceness, os.getpriority(os.PRIO_PROCESS, 0))


def test_a_session_that_it_shares_stays_as_it_is() -> None:
    with running(leads_session=False) as pid:
        before = group_niceness(pid)
        give_way(pid, 13)
        assert group_niceness(pid) == before


def test_a_process_that_is_gone_is_told() -> None:
    with running(leads_session=True) as pid:
        pass
    with pytest.raises(ProcessLookupError):
        give_way(pid, 3)
