"""Signs of life for who supervises this process, by systemd's protocol: `loramill up`, or systemd itself.

The supervisor names a datagram socket in NOTIFY_SOCKET and, in WATCHDOG_USEC, how long it may hear nothing
(https://www.freedesktop.org/software/systemd/man/latest/sd_watchdog_enabled.html). A thread sends them, so a
process that is stopped, or whose interpreter hangs, sends none. What follows from silence is the supervisor's
matter, in the embedded stack that of ``app.cli.stack.liveness``.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

SIGN: Final = b"WATCHDOG=1"
SIGNS_PER_SILENCE: Final = 4  # systemd asks for two; a busy machine can delay one


def show_signs_of_life(environ: Mapping[str, str]) -> threading.Thread | None:
    """Start to send them until the process ends, in the thread that is given; None where nobody asks for them.

    A child that inherits the environment sends its own, which tell its own process id.

    Raises:
        ValueError: WATCHDOG_USEC is not a number.
    """
    address, silence_us = environ.get("NOTIFY_SOCKET"), environ.get("WATCHDOG_USEC")
    if not address or not silence_us or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    every_s = int(silence_us) / 1e6 / SIGNS_PER_SILENCE
    # a name that begins with @ is one of the kernel's, without a file
    where = "\0" + address[1:] if address.startswith("@") else address
    thread = threading.Thread(target=_send, args=(where, every_s), name="signs-of-life", daemon=True)
    thread.start()
    return thread


def _send(address: str, every_s: float) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while True:
            # The supervisor may be being replaced, or read none now; the next sign is as good as this one.
            with contextlib.suppress(OSError):
                sender.sendto(SIGN, address)
            time.sleep(every_s)
