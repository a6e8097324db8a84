"""How the threads of numeric libraries behave in a process that shares its cores with others."""

from collections.abc import Mapping
from typing import Final

# By default OpenMP's threads spin while they wait for each other. Beside other busy processes they
# then spend their share of the cores on waiting: a training step took ten times as long. The library
# reads it once, while it is loaded, so it must be in the environment before the process starts. This is
# for trainers; an engine's threads are to spin between a step's operations, and sleep when it is idle.
IDLE_THREADS_SLEEP: Final[Mapping[str, str]] = {"OMP_WAIT_POLICY": "PASSIVE"}
