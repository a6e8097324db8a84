"""Commands that get a signal when the process that started them dies, so that nothing is left running.

The file is also the script that asks the kernel for it, between fork and exec, because Python code in
a forked copy of a process with threads can hang. Linux only; elsewhere the command runs without it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def bound(command: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """Give the command line that becomes ``command``, bound to this process.

    The kernel counts the *thread* that starts it as the parent, so that thread must live as long as
    the command shall. ``command[0]`` is an absolute path.
    """
    # -I -S: starts in milliseconds and reads no site packages; the environment reaches the command as it is
    script = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", script, str(int(death_signal)), str(os.getpid()), *command]


def main() -> None:
    """Become the command of ``bound.py SIGNAL PARENT_PID COMMAND...``."""
    death_signal, parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != int(parent_pid):  # it died before the wish was made
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
