"""How the API listens: uvicorn's settings, each with its reason."""

import json
import os

import uvicorn

from app.http.error_envelopes import Wire, problem_of
from app.main import create_app
from core.errors import ServiceError
from core.listening.connections import Connections, backlog, descriptors, most_connections
from core.listening.exposure import refuse_unprotected
from core.listening.protocol import Guard
from core.process.signs_of_life import show_signs_of_life
from core.process.writable import require_writable
from core.settings import Settings


def uvicorn_config(settings: Settings) -> uvicorn.Config:
    """Give uvicorn's configuration.

    Raises:
        SettingsInvalid: the address can be reached from elsewhere and there is no API key.
    """
    refuse_unprotected(settings)
    allowed = descriptors()
    connections = Connections(most_connections(allowed), settings.max_connections_per_address)
    return uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=Guard(connections, _body_of).protocol,  # over h11: httptools takes headers of any size and number
        h11_max_incomplete_event_size=16_384,
        ws="none",
        timeout_graceful_shutdown=20,  # without it, one open stream keeps the process alive
        limit_concurrency=None,  # it counts idle sockets, so a few silent clients would lock out all others
        backlog=backlog(allowed),
        proxy_headers=False,
        server_header=False,
        access_log=False,  # app.http.middleware writes one, without query strings
        log_config=None,  # core.process.logs has set logging up
    )


def _body_of(error: ServiceError) -> bytes:
    return json.dumps(problem_of(error).body(Wire.OPENAI)).encode()  # which wire it would have been is not known yet


def run(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        SettingsInvalid: see `uvicorn_config`.
        StartRefused: the store's folder cannot be written.
        SystemExit: a part could not be opened; the log says which.
    """
    require_writable(settings.store_folder)
    server = uvicorn.Server(uvicorn_config(settings))
    show_signs_of_life(os.environ)
    server.run()
