"""How a process gives way: by its own niceness, and by that of its session."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.process.priority import give_way

# tells who it is, or who its child in the same session is, and stays until its input ends
LEADER = "import os; print(os.getpid(), flush=True); input()"
WITH_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LEADER!r}])"


@contextlib.contextmanager
def running(*, leads_session: bool) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER if leads_session else WITH_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.communicate(b"\n")


def group_niceness(pid: int) -> int:
    group = Path(f"/proc/{pid}/autogroup")
    # empty where a group of the machine's administrator (a cgroup) has the say
    words = group.read_text("ascii").split() if group.exists() else []
    if not words:
        pytest.skip("this kernel groups no processes by their sessions")
    return int(words[-1])


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
