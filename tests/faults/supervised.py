"""``python -m tests.faults.supervised``: worker and API under the supervisor of ``loramill up``, and nothing else."""

import contextlib
import os
import sys

from app.cli.stack.preparation import runtime_folder
from app.cli.stack.process_log import ProcessLog, Terminal
from app.cli.stack.stack import child_environ, stop_on_signals, watch_of
from app.cli.stack.supervisor import Backoff, Child, ChildSpec, Supervisor
from core.settings import PREFIX, load_settings
from tests.faults.deployment import API_COMMAND, worker_command
from worker.__main__ import worker_environment


def main() -> None:
    settings = load_settings()
    specs = [ChildSpec("worker", worker_command(settings), 20.0), ChildSpec("api", API_COMMAND, 20.0)]
    terminal = Terminal(sys.stdout, [spec.name for spec in specs])
    with runtime_folder() as runtime, contextlib.ExitStack() as logs:
        stack_environ = child_environ(os.environ, settings, runtime)
        # no broker and no engine is started here
        own = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        without = {f"{PREFIX}{name}" for name in ("BROKER_URL", "ENGINE_URLS")} - own.keys()
        environ = {name: value for name, value in stack_environ.items() if name not in without} | own
        children = [
            Child(
                spec,
                worker_environment(environ),
                logs.enter_context(
                    contextlib.closing(ProcessLog(spec.name, settings.home.absolute() / "logs", terminal))
                ),
                Backoff(),
            )
            for spec in specs
        ]
        watch = logs.enter_context(contextlib.closing(watch_of(settings, runtime)))
        Supervisor(children, watch).run(stop_on_signals())


if __name__ == "__main__":
    main()
