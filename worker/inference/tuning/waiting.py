"""How long this process's threads have waited for a core: what tells that others were busy while it was timed.

Of Linux: each thread's time on a run queue (proc_pid_schedstat(5)), and what a hypervisor gave to other machines
(steal, proc_stat(5)). Threads that sleep do not count. Where the system does not tell, nobody is taken to wait.
"""

import os
from pathlib import Path

_TASKS, _STAT = Path("/proc/self/task"), Path("/proc/stat")


def waited_s() -> float:
    """Give the seconds up to now, of all threads together; only differences mean something."""
    return _queued_s() + _stolen_s()


def _queued_s() -> float:
    waited_ns = 0
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            _, queued_ns, _ = (task / "schedstat").read_text().split()
        except (OSError, ValueError):  # a thread that has just ended; a kernel that does not count
            continue
        waited_ns += int(queued_ns)
    return waited_ns / 1e9


def _stolen_s() -> float:
    """Give what the hypervisor took from all cores."""
    try:
        _, *ticks = _STAT.read_text().split("\n", 1)[0].split()
        return int(ticks[7]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
