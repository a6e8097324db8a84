"""Stands for an engine that is being built, so that its server answers from the beginning: what its start is at.

Knows neither how it is built nor what it is asked.
"""

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping

from core.errors import EngineStarting, ServiceError
from core.serving.admission import Load
from core.serving.generation import Delta, EngineInfo, GenerationRequest, Rendering, RenderRequest
from worker.inference.server import ServedEngine
from worker.inference.start_phases import StartPhases

logger = logging.getLogger(__name__)


class LateEngine:
    """Implements ``server.ServedEngine``: builds an engine in a thread, and is that engine from then on.

    Until then every request is answered with EngineStarting.

    Attributes:
        has_failed: whether it could not be built; the log says why.
    """

    def __init__(
        self,
        base_model: str,
        phases: StartPhases,
        build: Callable[[], ServedEngine],
        *,
        on_failure: Callable[[], None],
    ) -> None:
        """``build`` is called in a thread that ends with it; ``on_failure`` there, once the log says what failed."""
        self._base_model = base_model
        self._phases = phases
        self._build = build
        self._on_failure = on_failure
        self.has_failed = False
        self._lock = threading.Lock()  # guards the two below
        self._engine: ServedEngine | None = None
        self._is_closed = False
        # a daemon, so that a signal ends the process while a large model is loaded
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def start(self) -> None:
        """Begin to build."""
        self._thread.start()

    @property
    def is_building(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._engine is not None and self._engine.is_alive

    @property
    def waiting_by_adapter(self) -> Mapping[str | None, Load]:
        return {} if self._engine is None else self._engine.waiting_by_adapter

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        return self._built.generate(request)

    async def render(self, request: RenderRequest) -> Rendering:
        return await self._built.render(request)

    async def warm(self, adapter: str) -> None:
        await self._built.warm(adapter)

    async def unload(self, adapter: str) -> None:
        await self._built.unload(adapter)

    async def info(self) -> EngineInfo:
        return await self._built.info()

    async def close(self) -> None:
        """Close the engine; one that is not built yet will not be started."""
        with self._lock:
            self._is_closed = True
        if self._engine is not None:
            await self._engine.close()

    @property
    def _built(self) -> ServedEngine:
        if self._engine is None:
            raise EngineStarting(self._base_model, str(self._phases))
        return self._engine

    def _run(self) -> None:
        try:
            engine = self._build()
        except Exception as error:
            if isinstance(error, ServiceError):
                logger.error("the engine cannot start: %s", error)
            else:
                logger.exception("the engine cannot start")
            self.has_failed = True
            self._on_failure()
            return
        with self._lock:
            if self._is_closed:
                return
            engine.start()
            self._engine = engine
        self._phases.end()
