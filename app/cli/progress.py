"""How a wait is shown: a spinner or a bar on a terminal, else one line every ten seconds with the same facts."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_EVERY_S = 10.0


class TrainingDisplay(Protocol):
    """Shows a job's newest metrics; a context manager."""

    def __enter__(self) -> "TrainingDisplay": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def prepare(self, what: str) -> None:
        """Take what is done before the first step; the same may come again."""
        ...

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Take the data of a metrics event; the same one may come again."""
        ...


class Bar:
    """A bar with the facts beside it, for a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=None)
        self._began_s = time.monotonic()

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def prepare(self, what: str) -> None:
        self._progress.update(self._task, description=f"{what}, {duration(time.monotonic() - self._began_s)}")

    def show(self, metrics: Mapping[str, Any]) -> None:
        self._progress.update(
            self._task,
            completed=metrics["step"],
            total=metrics["total_steps"],
            description=describe(metrics),
        )


class PlainProgress:
    """One line every ten seconds, and one for the last step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._next_line_at = 0.0
        self._shown_step = -1

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def prepare(self, what: str) -> None:
        now = time.monotonic()
        if now >= self._next_line_at:
            self._next_line_at = now + LINE_EVERY_S
            self._console.print(f"training: {what}, {duration(now - self._began_s)}", highlight=False)

    def show(self, metrics: Mapping[str, Any]) -> None:
        step, total = metrics["step"], metrics["total_steps"]
        now = time.monotonic()
        if step == self._shown_step or (now < self._next_line_at and step < total):
            return
        self._shown_step = step
        self._next_line_at = now + LINE_EVERY_S
        self._console.print(f"training: step {step} of {total}, {describe(metrics)}", highlight=False)


def training_display(console: Console) -> TrainingDisplay:
    """Give the display that suits the console."""
    return Bar(console) if console.is_terminal else PlainProgress(console)


def describe(metrics: Mapping[str, Any]) -> str:
    """Say the facts of a step: loss, speed, how much of the machine that is, and what is left."""
    loss = "–" if metrics["train_loss"] is None else f"{metrics['train_loss']:.3f}"
    facts = [f"loss {loss}", f"{metrics['tokens_per_s']:,.0f} tokens/s"]
    if metrics.get("mfu") is not None:  # an older worker's events have none
        facts.append(f"{metrics['mfu']:.0%} MFU")
    if metrics["eta_s"] is not None:
        facts.append(f"{duration(metrics['eta_s'])} left")
    return ", ".join(facts)


def duration(seconds: float) -> str:
    """Write seconds as ``42 s`` or ``3:07 min``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02} min"


@contextlib.contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Show that something goes on."""
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(f"{what} …", highlight=False)
        yield


Show = Callable[[int, int | None, str], None]  # how many are done, of how many where that is known, and the facts


@contextlib.contextmanager
def counting(console: Console, what: str) -> Iterator[Show]:
    """Show how many of how many are done: a bar on a terminal, else a line every ten seconds."""
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield lambda done, total, facts: progress.update(task, completed=done, total=total, description=facts)
        return
    next_line_at = 0.0

    def show(done: int, total: int | None, facts: str) -> None:
        nonlocal next_line_at
        if time.monotonic() >= next_line_at:
            next_line_at = time.monotonic() + LINE_EVERY_S
            of = "" if total is None else f" of {total:,}"
            console.print(f"{what}: {done:,}{of}, {facts}", highlight=False)

    yield show
