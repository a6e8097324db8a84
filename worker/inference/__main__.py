"""Starts an engine process: reads the settings, loads the base model, serves it until SIGTERM.

The exit status is 0 after a signal and 1 when the engine died or hung, so that a supervisor starts it anew.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import TypeVar

import uvicorn

from core.base_models.registry import Registry, folder_of
from core.errors import ServiceError
from core.process.logs import setup
from core.settings import Settings, load_settings
from core.store.blobs import LocalBlobStore
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.metrics.machine_probe import probe
from worker.inference.native.huge_pages import use_huge_pages
from worker.inference.server import create_app
from worker.inference.watchdog import Watchdog
from worker.models.loading import load_base_model

logger = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_S = 10  # what requests under way get to finish after SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Run an engine; give the exit status."""
    options = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles them while it serves, and raises them again when it has drained
        signal.signal(number, _exit)
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

    metrics = EngineMetrics()
    engine = _in_a_thread(lambda: _build(options.base_model, settings, metrics, stop_serving))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(engine, metrics),
            host=options.host,
            port=options.port or 0,
            uds=None if options.uds is None else str(options.uds),
            http="h11",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    Watchdog(engine.heartbeat).start()
    server.run()
    # a signal does not come back from run(), so nobody asked for this end
    logger.error("the engine ended by itself")
    return 1


def _build(base_model: str, settings: Settings, metrics: EngineMetrics, on_death: Callable[[], None]) -> LocalEngine:
    entry = Registry.load(settings.base_models_folder).get(base_model)
    loaded = load_base_model(folder_of(settings.base_models_folder, entry.name), dtype=entry.dtype)
    logger.info("%s loaded on %s in %s", entry.name, loaded.device, loaded.dtype)
    blobs = LocalBlobStore(settings.store_folder)
    engine = LocalEngine(entry.name, loaded, blobs, settings, metrics=metrics, on_death=on_death)
    if loaded.device.type == "cpu":
        use_huge_pages()
    metrics.steps.probed(probe(loaded.device, loaded.dtype))
    engine.tune()
    return engine


def _in_a_thread(work: Callable[[], T]) -> T:
    """Do something in a thread that ends with it.

    Each thread that shares work out over the cores keeps helpers of its own for it (libgomp's pools), and once there
    are more of them than cores, all of them go to sleep between two operations instead of waiting awake: a decode step
    then takes nearly twice as long. So the scheduler's thread has to be the only one that is left with helpers.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    # a daemon, so that a signal ends the process while a large model is loaded
    threading.Thread(target=run, name="build", daemon=True).start()
    return outcome.result()


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
