"""The request that this process ends its work: set by a signal handler, waited for by loops."""

import os
import select


class StopFlag:
    """A flag that can be set from a signal handler and waited for together with pipes.

    `threading.Event` cannot: a handler that sets one deadlocks when the same thread is inside `wait`.
    """

    def __init__(self) -> None:
        self._requested = False
        self._read_fd, self._write_fd = os.pipe()

    @property
    def requested(self) -> bool:
        return self._requested

    def request(self) -> None:
        """Ask to stop; asking again changes nothing."""
        if not self._requested:
            self._requested = True
            os.write(self._write_fd, b"\0")  # never read, so it wakes every waiter from now on

    def fileno(self) -> int:
        """Give the descriptor that is readable from the request on."""
        return self._read_fd

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request, and tell whether there is one."""
        if not self._requested:
            select.select([self], [], [], timeout_s)
        return self._requested
