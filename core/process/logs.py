"""How every process writes its log: structlog over the standard library, JSON lines or for people.

What is logged is each module's matter. Secrets of the settings never reach a line, not even
inside a traceback, because the finished text is searched for them.
"""

import io
import json
import logging
import re
import sys
import time
from typing import Any, Final, TextIO
from urllib.parse import unquote, urlsplit

import structlog

from core.settings import Settings

_MASK: Final = "***"
# C0 but for the tab, DEL, C1, and what Unicode calls line and paragraph separators and changes of direction
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+@")


def setup(settings: Settings, process: str) -> None:
    """Send every logger of this process to stderr in one format; ``process`` names it in each line.

    Values bound with ``structlog.contextvars.bound_contextvars(job_id=...)`` appear in the lines of
    their context, those of libraries included.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_process(process),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        RedactingFormatter(
            secrets=_secrets_of(settings), foreign_pre_chain=shared, processors=_rendering(settings.log_json)
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each call to an engine
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(OncePerMinute())


class OncePerMinute(logging.Filter):
    """Lets through once a minute what a server's libraries say of each malformed request or failed accept.

    Whoever reaches a server's port can cause any number of them, and would fill the disk with lines.
    """

    _EVERY_S: Final = 60.0
    _OF_ANY_CLIENT: Final = (
        "Invalid HTTP request received",
        "Unsupported upgrade request",
        "No supported WebSocket library",
        "socket.accept() out of system resource",
    )

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = next((start for start in self._OF_ANY_CLIENT if str(record.msg).startswith(start)), None)
        if said is None:
            return True
        now_s = time.monotonic()
        if now_s - self._told_s.get(said, -self._EVERY_S) < self._EVERY_S:
            return False
        self._told_s[said] = now_s
        return True


class RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Masks the given secrets, and the password of any URL, in the finished line."""

    def __init__(
        self,
        *,
        secrets: frozenset[str],
        foreign_pre_chain: list[structlog.typing.Processor],
        processors: list[structlog.typing.Processor],
    ) -> None:
        super().__init__(foreign_pre_chain=foreign_pre_chain, processors=processors)
        # a secret with a quote or a backslash looks different inside a JSON string
        spellings = secrets | {json.dumps(secret)[1:-1] for secret in secrets}
        self._secrets = sorted(spellings, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, _MASK)
        return _URL_PASSWORD.sub(rf"\1:{_MASK}@", line)


class EscapingFormatter(logging.Formatter):
    """The standard library's, for a process whose lines its parent reads: a record is one line and its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return _barred(super().formatException(ei))


def _name_process(process: str) -> structlog.typing.Processor:
    def add(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("process", process)
        return event

    return add


def _rendering(as_json: bool) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those hold prompts, examples and keys.
    last: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=_write_traceback
    )
    first: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not as_json:
        first.append(_escape_values)
    else:
        last = structlog.processors.JSONRenderer()
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        first.append(structlog.processors.ExceptionRenderer(tracebacks))
    return [*first, last]


def visible(text: str) -> str:
    """Write control characters as escapes, so that what others wrote neither begins a line nor moves a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _escape_values(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    kept = {"exc_info", "exception", "stack"}  # they have lines of their own, see `_write_traceback`
    return {
        visible(key): visible(value.rstrip("\n")) if isinstance(value, str) and key not in kept else value
        for key, value in event.items()
    }


def _write_traceback(sio: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    sio.write("\n" + _barred(text.getvalue()))


def _barred(traceback: str) -> str:
    """Begin each line with a bar, so that none, of an exception's message neither, looks like a record of its own."""
    return "\n".join(f"| {visible(line)}" for line in traceback.strip("\n").split("\n"))


def _secrets_of(settings: Settings) -> frozenset[str]:
    secrets = set()
    if settings.api_key is not None:
        secrets.add(settings.api_key.get_secret_value())
    for url in (settings.database, settings.broker_url):
        password = urlsplit(url).password
        if password:
            secrets |= {password, unquote(password)}
    return frozenset(secrets)
