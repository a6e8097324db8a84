"""What must hold before the embedded stack starts: free port, own home folder, base models, database.

Starts nothing that stays; ``app.cli.stack.stack`` does.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import filelock

from app.cli.stack.supervisor import TICK_S, Stop, start_bound
from core.base_models.registry import Registry, folder_of, read_imported
from core.errors import BaseModelInvalid, SettingsInvalid, StartRefused
from core.listening.exposure import refuse_unprotected
from core.process.writable import require_writable
from core.settings import PREFIX, Settings

LONGEST_SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un, less its closing zero
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}


def refuse_contradictions(settings: Settings) -> None:
    """Refuse settings that an embedded stack would have to ignore, or must not follow.

    Raises:
        SettingsInvalid: naming the variable and the remedy.
    """
    refuse_unprotected(settings)
    for field in sorted({"broker_url", "engine_urls"} & settings.model_fields_set):
        raise SettingsInvalid(
            f"{PREFIX}{field.upper()} is set, but `loramill up` starts its own; unset it, "
            "or start `loramill api`, `worker` and `engine` yourself"
        )


def refuse_taken_port(settings: Settings) -> None:
    """Find out whether the API will be able to listen.

    Raises:
        StartRefused: it will not.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # as the server will, so that connections of a stack just stopped do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StartRefused(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}; "
            f"stop what uses it, or choose another {PREFIX}PORT"
        ) from error


@contextlib.contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Keep other stacks off the home folder.

    Raises:
        StartRefused: a stack runs on it already, or it cannot be written.
    """
    require_writable(home)
    try:
        with filelock.FileLock(home / "stack.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise StartRefused(
            f"another stack runs on {home}; stop it, or choose another {PREFIX}HOME and {PREFIX}PORT"
        ) from error


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, for the stack's sockets.

    Raises:
        StartRefused: its path is too long for a socket.
    """
    folder = Path(tempfile.mkdtemp(prefix="loramill-"))
    try:
        longest = folder / "engine-00.sock"
        if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH_BYTES:
            raise StartRefused(f"{folder} is too long a path for sockets; set TMPDIR to a shorter one, such as /tmp")
        yield folder
    finally:
        shutil.rmtree(folder)


def import_missing_models(settings: Settings) -> None:
    """Import the base models that are not there yet.

    Raises:
        ModelNotFound: the registry has no base model of a name.
        StartRefused: an import failed; it has said why.
    """
    folder = settings.base_models_folder
    registry = Registry.load(folder)
    for name in settings.base_models:
        registry.get(name)
        try:
            read_imported(folder_of(folder, name))
        except BaseModelInvalid:
            import_model(folder, name)


def import_model(folder: Path, name: str) -> None:
    """Import a base model in a process of the worker's side; does nothing where that is done.

    Raises:
        StartRefused: the folder cannot be written, or it failed and has said why.
    """
    require_writable(folder)
    command = (sys.executable, "-m", "worker.models.importing", "--folder", str(folder), name)
    # the hub stays reachable here, unlike in the stack's own processes
    run_to_end(command, {**os.environ, **QUIET, "PYTHONSAFEPATH": "1"}, f"base model {name} could not be imported")


def run_to_end(command: tuple[str, ...], environ: Mapping[str, str], failure: str, stop: Stop | None = None) -> None:
    """Run a command to its end, which a wish to ``stop`` or Ctrl-C brings about.

    Raises:
        StartRefused: it failed.
    """
    process = start_bound(command, death_signal=signal.SIGTERM, environ=environ, output=None)
    try:
        while process.poll() is None:
            if stop is not None and stop.requested:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TICK_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        raise StartRefused(f"{failure}; see the lines above")
