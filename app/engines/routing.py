"""Which engine answers for which base model."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from app.engines.http import HttpEngine
from app.engines.vllm.engine import VllmEngine
from core.errors import EngineUnavailable
from core.serving.generation import Engine
from core.settings import Settings
from core.store.blobs import BlobStore


class Closable(Protocol):
    """A client that holds connections."""

    async def close(self) -> None: ...


class Engines:
    """The engines of a deployment, by their base model's name."""

    def __init__(self, engines: Mapping[str, Engine], owned: Iterable[Closable] = ()) -> None:
        self._engines = engines
        self._owned = tuple(owned)

    @classmethod
    def connect(cls, settings: Settings, blobs: BlobStore) -> "Engines":
        """Make a client for each engine and vLLM server; nothing is sent yet. vLLM's adapters come from ``blobs``."""
        ours = {name: HttpEngine(name, url) for name, url in settings.engine_urls.items()}
        vllm = {name: VllmEngine(name, url, blobs, settings) for name, url in settings.vllm_urls.items()}
        return cls({**ours, **vllm}, [*ours.values(), *vllm.values()])

    def get(self, base_model: str) -> Engine:
        """Give the engine of a base model.

        Raises:
            EngineUnavailable: the deployment has none for it.
        """
        if base_model not in self._engines:
            raise EngineUnavailable(base_model, "neither LORAMILL_ENGINE_URLS nor LORAMILL_VLLM_URLS names one for it")
        return self._engines[base_model]

    async def close(self) -> None:
        for engine in self._owned:
            await engine.close()
