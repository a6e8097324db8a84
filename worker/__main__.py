"""``python -m worker``: becomes a Celery worker with the command line and environment that Loramill needs."""

import os
import sys

from core.errors import DatabaseUnavailable, SchemaMismatch, StartRefused
from core.process.privacy import keep_home_to_owner
from core.process.writable import require_writable
from core.settings import Settings, load_settings
from core.store.revisions import check_schema


def worker_argv(settings: Settings) -> list[str]:
    """Give the arguments of Celery's own command."""
    return [
        "--app=worker.celery.app",
        "--quiet",
        "worker",
        f"--loglevel={settings.log_level}",
        "--without-gossip",
        "--without-mingle",
        # The heartbeat thread can hold a lock while it retries a dead broker, and stopping waits for that lock.
        "--without-heartbeat",
    ]


def worker_environment(environ: dict[str, str]) -> dict[str, str]:
    """Give the environment of a worker."""
    # SIGTERM then ends the running job at its next checkpoint; else Celery would wait for the job's end.
    return environ | {"REMAP_SIGTERM": "SIGQUIT"}


def main() -> None:
    """Replace this process by the worker; its pid and parent stay."""
    try:
        settings = load_settings()
        keep_home_to_owner(settings)  # and, by inheritance, what becomes of this process, and its trainers
        require_writable(settings.runs_folder)
        check_schema(settings.database)
    except (ValueError, StartRefused, SchemaMismatch) as error:
        sys.exit(str(error))
    except DatabaseUnavailable as error:
        print(f"{error}; the worker starts and waits for it", file=sys.stderr)
    command = [sys.executable, "-m", "worker.celery", *worker_argv(settings)]
    os.execve(sys.executable, command, worker_environment(dict(os.environ)))


if __name__ == "__main__":
    main()
