"""How every process writes its log: structlog over the standard library, JSON lines or for people.

What is logged is each module's matter. Secrets of the settings never reach a line, not even
inside a traceback, because the finished text is searched for them.
"""

import json
import logging
import re
import sys
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog

from core.settings import Settings

_MASK: Final = "***"
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
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    first: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        last = structlog.processors.JSONRenderer()
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        first.append(structlog.processors.ExceptionRenderer(tracebacks))
    return [*first, last]


def _secrets_of(settings: Settings) -> frozenset[str]:
    secrets = set()
    if settings.api_key is not None:
        secrets.add(settings.api_key.get_secret_value())
    for url in (settings.database, settings.broker_url):
        password = urlsplit(url).password
        if password:
            secrets |= {password, unquote(password)}
    return frozenset(secrets)
