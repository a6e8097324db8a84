"""How a process that may take its time gives way to those that people wait for.

Knows Linux' two places for it, and neither what a process does nor who waits.
"""

import errno
import os
import time
from pathlib import Path
from typing import Final

import structlog

_log = structlog.stdlib.get_logger(__name__)

_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.1  # for which Linux refuses a second change by anyone without privileges


def give_way(pid: int, niceness: int) -> None:
    """Make a process at least so nice, with the threads that it starts later.

    A process that leads a session is, where the kernel has autogroups (as on most desktops), weighed against those of
    other sessions by its group's niceness alone: its own counts only within (sched(7)). So the group is given it too.
    Where that cannot be, a line in the log says so: the process only takes more than its share.

    Raises:
        ProcessLookupError: it is not there any more.
        PermissionError: it is another user's.
    """
    niceness = max(niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    group = Path(f"/proc/{pid}/autogroup")
    if os.getsid(pid) != pid or not group.exists():
        return
    for attempt in range(_ATTEMPTS):
        try:
            group.write_text(str(niceness), "ascii")
            return
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                _log.warning("a process's group is not made nice", pid=pid, reason=str(error))
                return
        time.sleep(_PAUSE_S)
