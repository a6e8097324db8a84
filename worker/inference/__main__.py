"""Starts an engine process: reads the settings, listens, builds the engine meanwhile, serves it until SIGTERM.

What computes is imported where it is built, so that who asks in the first seconds is told what the start is at. The
exit status is 0 after a signal and 1 when the engine died or hung, so that a supervisor starts it anew.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from core.base_models.registry import BaseModelEntry, Registry, folder_of, read_imported
from core.errors import ServiceError
from core.listening.connections import Connections, backlog, descriptors, most_connections
from core.listening.exposure import refuse_unnamed
from core.listening.origin_guard import OriginGuard
from core.listening.protocol import Guard
from core.process.gpu import expects_gpu
from core.process.logs import setup
from core.process.privacy import keep_to_owner
from core.process.signs_of_life import show_signs_of_life
from core.serving.error_wire import error_body
from core.settings import Settings, load_settings
from core.store.blobs import LocalBlobStore
from worker.inference.late_engine import LateEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app
from worker.inference.start_phases import StartPhases
from worker.inference.watchdog import Watchdog
from worker.native.compiling import ENGINE, compile_ahead

if TYPE_CHECKING:
    from worker.inference.engine import LocalEngine

logger = logging.getLogger(__name__)

DRAIN_S = 10  # what requests under way get to finish after SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Run an engine; give the exit status."""
    options = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles them while it serves, and raises them again when it has drained
        signal.signal(number, _exit)
    keep_to_owner()
    settings = load_settings()
    setup(settings, f"engine {options.base_model}")
    try:
        return _serve(options, settings)
    except ServiceError as error:
        logger.error("the engine cannot start: %s", error)
        return 1


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    def stop_serving() -> None:
        server.should_exit = True

    guard = None
    if options.uds is None:
        refuse_unnamed(options.host, settings)
        guard = OriginGuard.of_engine(options.host, settings)
    metrics, phases = EngineMetrics(), StartPhases(settings.engine_start_s)
    entry, folder = _find_base_model(settings, options.base_model)

    def build() -> "LocalEngine":
        phases.enter("importing libraries")
        if settings.engine_native and not expects_gpu(os.environ):  # torch, once it is imported, knows
            # beside the imports, which keep one core busy for seconds
            compile_ahead(ENGINE, settings.kernels_folder, settings.engine_cpu_level)
        from worker.inference.building import build_engine

        engine = build_engine(
            entry,
            folder,
            LocalBlobStore(settings.store_folder),
            settings,
            metrics,
            on_death=stop_serving,
            phases=phases,
            tries_first=False,  # whoever waits for the engine would wait for them
        )
        Watchdog(engine.heartbeat).start()
        # not before: imports keep the interpreter to themselves, and the start has its own limit
        show_signs_of_life(os.environ)
        return engine

    engine = LateEngine(entry.name, phases, build, on_failure=stop_serving)
    allowed = descriptors()
    connections = Connections(most_connections(allowed), settings.max_connections_per_address)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(engine, metrics, guard, phases),
            host=options.host,
            port=options.port or 0,
            http=Guard(connections, _body_of).protocol,
            backlog=backlog(allowed),
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    Watchdog(phases.heartbeat, what=phases).start()
    try:
        server.run(sockets=None if options.uds is None else [_listen(options.uds)])
    except SystemExit:
        if engine.is_building:
            os._exit(0)  # what is in the middle of a library's code cannot be ended in order
        raise
    if not engine.has_failed:
        # a signal does not come back from run(), so nobody asked for this end
        logger.error("the engine ended by itself")
    return 1


def _find_base_model(settings: Settings, name: str) -> tuple[BaseModelEntry, Path]:
    """Give a base model and its folder; one that is not imported is said at once, not after seconds of imports."""
    entry = Registry.load(settings.base_models_folder).get(name)
    folder = folder_of(settings.base_models_folder, entry.name)
    read_imported(folder)
    return entry, folder


def _body_of(error: ServiceError) -> bytes:
    return json.dumps(error_body(error)).encode()


def _listen(path: Path) -> socket.socket:
    """Listen on a Unix socket that only its owner opens; uvicorn would let everybody."""
    path.unlink(missing_ok=True)  # of an engine that was killed
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen()
    return listener


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description="Serve one base model.")
    parser.add_argument("--base-model", required=True, metavar="NAME", help="a base model that is imported")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, with --port")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="port to listen on")
    where.add_argument("--uds", type=Path, metavar="PATH", help="Unix socket to listen on")
    return parser.parse_args(arguments)


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
