"""What befalls a stack's processes and disk while clients use it: kills, freezes, a full disk, collections."""

import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import psutil

from tests.harness.servers.stack import Stack, command_environ

VICTIMS: Final = {
    "trainer": ("-m", "worker.training"),
    "worker": ("--app=worker.celery.app",),
    "api": ("-m", "app", "api"),
    "broker": ("valkey-server",),
    "engine": ("-m", "worker.inference"),
}
_BREATH_S: Final = (2.0, 12.0)  # between two strokes; a stack that never recovers shows nothing
_FROZEN_S: Final = (0.5, 15.0)


class Chaos:
    """Strikes one thing after the other.

    ``fill`` and ``free`` make the home's disk full and free again; None where that cannot be done here.
    """

    def __init__(
        self, stack: Stack, seed: int, fill: Callable[[], None] | None, free: Callable[[], None] | None
    ) -> None:
        self._stack, self._random = stack, Random(seed)
        self._fill, self._free = fill, free
        self.strokes: Counter[str] = Counter()

    def run(self, stop: threading.Event) -> None:
        """Strike until told to stop; nothing stays frozen or full."""
        strokes = [self._kill, self._kill, self._freeze, self._collect]
        if self._fill is not None:
            strokes.append(self._fill_disk)
        while not stop.wait(self._random.uniform(*_BREATH_S)):
            self._random.choice(strokes)(stop)

    def _kill(self, _stop: threading.Event) -> None:
        name, victims = self._victims()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                self.strokes[f"kill {name}"] += 1

    def _freeze(self, stop: threading.Event) -> None:
        name, victims = self._victims()
        if not victims:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            victim = self._random.choice(victims)
            victim.suspend()
            self.strokes[f"freeze {name}"] += 1
            stop.wait(self._random.uniform(*_FROZEN_S))
            victim.resume()

    def _victims(self) -> tuple[str, list[psutil.Process]]:
        name = self._random.choice(list(VICTIMS))
        return name, self._stack.processes(*VICTIMS[name])

    def _collect(self, _stop: threading.Event) -> None:
        run_command(self._stack.home, self._stack.port, "gc")
        self.strokes["collect"] += 1

    def _fill_disk(self, stop: threading.Event) -> None:
        assert self._fill is not None
        assert self._free is not None
        self._fill()
        self.strokes["fill disk"] += 1
        stop.wait(self._random.uniform(1, 10))
        self._free()


def run_command(home: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours on the home, beside its stack."""
    command = [sys.executable, "-m", "app", *arguments]
    environ = command_environ(home, port, LORAMILL_GC_GRACE_H="0")
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
