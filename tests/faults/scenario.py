"""What a scenario is, and when one cannot be had on this machine."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.invariants import Figures


class Impossible(Exception):
    """This machine does not let the fault be made; the sentence says why."""


@dataclass(frozen=True)
class Scenario:
    """A fault, what is expected of us, and what makes it happen in an empty folder.

    ``run`` raises AssertionError where the expectation fails, and `Impossible`.
    """

    name: str
    expected: str
    run: Callable[[Path], Figures]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """Make the folder a file system of its own with so much room.

    Raises:
        Impossible: only root may.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise Impossible("a small file system can only be mounted by root")
    options = f"size={int(megabytes * 2**20)}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "loramill-test", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Impossible(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # lazily: a process that is being killed may still have a file there
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leaving_bytes: int = 0) -> Path:
    """Take the room of a file system but for so many bytes, by a file that is given; root's reserve too."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"\0" * 65536):
            pass
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"\0" * 512):
            pass
    if leaving_bytes:
        os.truncate(ballast, max(0, ballast.stat().st_size - leaving_bytes))
    return ballast
