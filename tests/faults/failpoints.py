"""Places where a process under test dies or freezes once, when a scenario asks for it by a file.

A failpoint is a file in the home's folder ``failpoints``; whoever removes it is the one that it is for.
"""

import os
import signal
from pathlib import Path

from sqlalchemy import Connection, Engine, event
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FREEZE_BEFORE_COMMIT = "freeze-before-commit"
KILL_BEFORE_REPLY = "kill-before-reply"


def failpoint(home: Path, name: str) -> Path:
    """Give the file that arms a failpoint."""
    folder = home / "failpoints"
    folder.mkdir(exist_ok=True)
    return folder / name


def freeze_before_commit(home: Path) -> None:
    """Have this process stop before it commits a write, with the database's lock in its hands."""

    def freeze(connection: Connection) -> None:
        if connection.get_execution_options().get("loramill_writes") and _is_mine(home, FREEZE_BEFORE_COMMIT):
            os.kill(os.getpid(), signal.SIGSTOP)

    event.listen(Engine, "commit", freeze)


class DiesBeforeReplying:
    """An app whose process dies when it has carried a POST out and is about to say so."""

    def __init__(self, app: ASGIApp, home: Path) -> None:
        self._app = app
        self._home = home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_die(message: Message) -> None:
            starts = message["type"] == "http.response.start" and scope.get("method") == "POST"
            if starts and message["status"] == 200 and _is_mine(self._home, KILL_BEFORE_REPLY):
                os.kill(os.getpid(), signal.SIGKILL)
            await send(message)

        await self._app(scope, receive, send_or_die)


def _is_mine(home: Path, name: str) -> bool:
    try:
        failpoint(home, name).unlink()
    except FileNotFoundError:
        return False
    return True
