"""Which engine answers for which base model."""

from collections.abc import Iterable, Mapping

from app.engines.http import HttpEngine
from core.errors import EngineUnavailable
from core.generation import Engine


class Engines:
    """The engines of a deployment, by their base model's name."""

    def __init__(self, engines: Mapping[str, Engine], owned: Iterable[HttpEngine] = ()) -> None:
        self._engines = engines
        self._owned = tuple(owned)

    @classmethod
    def connect(cls, urls: Mapping[str, str]) -> "Engines":
        """Make a client for each engine URL; nothing is sent yet."""
        engines = {base_model: HttpEngine(base_model, url) for base_model, url in urls.items()}
        return cls(engines, engines.values())

    def get(self, base_model: str) -> Engine:
        """Give the engine of a base model.

        Raises:
            EngineUnavailable: the deployment has none for it.
        """
        if base_model not in self._engines:
            raise EngineUnavailable(base_model, "LORAMILL_ENGINE_URLS names no engine for it")
        return self._engines[base_model]

    async def close(self) -> None:
        for engine in self._owned:
            await engine.close()
