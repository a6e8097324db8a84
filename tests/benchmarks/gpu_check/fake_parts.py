"""Works of parts that hold, fail, hang and die: for the tests, by name, as a part's process imports them."""

import os
import signal
import subprocess
import sys
import time

from benchmarks.gpu_check.parts import Note, PartSkipped, Setting, require


def hold(setting: Setting, note: Note) -> None:
    note("device", setting.device)


def raise_error(_: Setting, note: Note) -> None:
    note("so far", 1)
    print("about to raise", flush=True)
    raise KeyError("tensor")


def not_hold(_: Setting, note: Note) -> None:
    note("error", 0.5)
    require(False, "0.5 is too much")


def skip(_: Setting, note: Note) -> None:
    raise PartSkipped("this chip has none")


def hang(setting: Setting, note: Note) -> None:
    """Hang, and leave a process that hangs too; its number is a figure."""
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    (setting.folder / "sleeper").write_text(str(sleeper.pid), "utf-8")
    note("so far", 1)
    time.sleep(600)


def be_killed(_: Setting, note: Note) -> None:
    note("so far", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def exit_early(_: Setting, note: Note) -> None:
    os._exit(3)


def note_tensor(_: Setting, note: Note) -> None:
    note("found", {1, 2})
