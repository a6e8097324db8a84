"""The parts of a check, each in a process of its own: what one loses by a crash, a full memory or a hang is its own.

Knows neither GPUs nor models: what a part does is a function that is named, and is imported only where it runs.
"""

import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Literal

ENDS_WITHIN_S: Final = 5.0  # a process that has answered, before it is killed
BEGINS_WITH: Final = 0.5  # of its limit: what must be left for a part to begin
LOG_SHOWN: Final = 3000  # characters of the end of a failed part's log

Verdict = Literal["held", "failed", "skipped"]
StartMethod = Literal["spawn", "forkserver"]
Note = Callable[[str, Any], None]
"""Keeps a figure, a value that JSON has, under its name; the same name again replaces it."""


class PartSkipped(Exception):
    """A part cannot be tried here; the message says why."""


class NotHeld(Exception):
    """What a part claims is not so; the message says in which way."""


@dataclass(frozen=True)
class Setting:
    """On what all parts run.

    Attributes:
        is_miniature: tiny models and few repeats, to show that everything runs.
        folder: of the whole check; gone at its end.
    """

    device: Literal["cuda", "cpu"]
    is_miniature: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True)
class Part:
    """One thing that is tried.

    Attributes:
        claim: what holds when it holds.
        work: ``module:function``; the function takes the `Setting` and a `Note`. It raises `PartSkipped`; any other
            exception is a failure.
        needs: modules that it imports beside what all parts need.
        needs_cuda: there is no such path on a CPU.
    """

    name: str
    claim: str
    work: str
    limit_s: float
    needs: tuple[str, ...] = ()
    needs_cuda: bool = False

    @property
    def module(self) -> str:
        return self.work.partition(":")[0]


@dataclass(frozen=True)
class PartResult:
    """What became of a part. ``why`` is None where it held; figures that it had before it failed are kept."""

    name: str
    claim: str
    verdict: Verdict
    why: str | None
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    log: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def require(is_so: bool, why: str) -> None:
    """End a part whose claim does not hold.

    Raises:
        NotHeld: ``is_so`` is false.
    """
    if not is_so:
        raise NotHeld(why)


def run_parts(
    parts: Sequence[Part], setting: Setting, seconds: float, *, start_method: StartMethod
) -> Iterator[PartResult]:
    """Run one part after the other and give each one's result as it is there; all together take ``seconds`` at most."""
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(sorted({part.module for part in parts}))
    deadline_s = time.monotonic() + seconds
    for number, part in enumerate(parts):
        left_s = deadline_s - time.monotonic()
        why = _why_not(part, setting, left_s)
        if why is not None:
            yield PartResult(part.name, part.claim, "skipped", why)
        else:
            yield _run(part, setting, min(part.limit_s, left_s), context, setting.folder / f"{number}.log")


def _why_not(part: Part, setting: Setting, left_s: float) -> str | None:
    absent = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if part.needs_cuda and not setting.on_gpu:
        return "needs CUDA"
    if absent:
        return f"needs {', '.join(absent)}, not installed here"
    return "no time left" if left_s < BEGINS_WITH * part.limit_s else None


def _run(part: Part, setting: Setting, limit_s: float, context: Any, log: Path) -> PartResult:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_be_part, args=(part.work, setting, sender, log))
    began_s = time.monotonic()
    figures: dict[str, Any] = {}
    process.start()
    sender.close()
    try:
        ended = _listen(receiver, process, limit_s, figures)
    finally:
        _end(process)
        receiver.close()
    verdict, why = ended or _describe_cut(part, limit_s)
    written = log.read_text("utf-8", "replace")[-LOG_SHOWN:] if verdict == "failed" and log.exists() else ""
    return PartResult(part.name, part.claim, verdict, why, time.monotonic() - began_s, figures, written)


def _listen(
    receiver: Connection, process: BaseProcess, limit_s: float, figures: dict[str, Any]
) -> tuple[Verdict, str | None] | None:
    """Take a part's figures as they come, and what it ends with; None: it has not ended."""
    deadline_s = time.monotonic() + limit_s
    while (left_s := deadline_s - time.monotonic()) > 0 and receiver.poll(left_s):
        try:
            kind, name, value = receiver.recv()
        except (EOFError, OSError):
            process.join(ENDS_WITHIN_S)
            return "failed", _describe_end(process.exitcode)
        if kind != "figure":
            process.join(ENDS_WITHIN_S)
            return kind, value
        figures[name] = value
    return None


def _describe_cut(part: Part, limit_s: float) -> tuple[Verdict, str]:
    if limit_s < part.limit_s:  # it could have been right
        return "skipped", f"no time left: cut after {limit_s:.3g} s"
    return "failed", f"not done after {limit_s:.3g} s"


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with {code}"


def _end(process: BaseProcess) -> None:
    """End a part's process, where it has not ended, and all that it started."""
    assert process.pid is not None, "it was started"
    with contextlib.suppress(ProcessLookupError):  # it has no group yet, or nobody is left in it
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _be_part(work: str, setting: Setting, sender: Connection, log: Path) -> None:
    """Do a part's work, and send what it found and how it ended; what it prints goes into its log."""
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)

    def note(name: str, value: Any) -> None:
        json.dumps(value)  # else only the table at the end would say that it cannot be written
        sender.send(("figure", name, value))

    module, _, name = work.partition(":")
    try:
        getattr(importlib.import_module(module), name)(setting, note)
    except PartSkipped as reason:
        sender.send(("skipped", None, str(reason)))
    except Exception as error:
        traceback.print_exc()
        said = str(error) if isinstance(error, NotHeld) else f"{type(error).__name__}: {error}"
        sender.send(("failed", None, said))
    else:
        sender.send(("held", None, None))
