"""Which engine answers for which base model."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog

from app.engines.vllm.engine import VllmEngine
from core.errors import EngineUnavailable, InvalidParameter, ServiceError
from core.serving.generation import Engine
from core.serving.http_engine import HttpEngine
from core.settings import Settings
from core.store.blobs import BlobStore

_log = structlog.stdlib.get_logger(__name__)


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

    async def unload(self, base_model: str, adapters: Iterable[str]) -> None:
        """Tell an engine what it can forget. One that does not hear it forgets what is least used anyway."""
        try:
            for digest in adapters:
                await self.get(base_model).unload(digest)
        except ServiceError as error:
            _log.warning("an engine was not told of deleted adapters", adapters=adapters, reason=str(error))

    async def close(self) -> None:
        for engine in self._owned:
            await engine.close()


def require_own_engine(settings: Settings, base_model: str, param: str) -> None:
    """Refuse a base model that no engine of ours answers for: scores are of what our engine says.

    Args:
        param: the request's field that needs the engine.

    Raises:
        InvalidParameter: vLLM serves it, or nothing does.
    """
    if base_model in settings.engine_urls:
        return
    if base_model in settings.vllm_urls:
        raise InvalidParameter(
            param,
            f"{base_model} is served by vLLM, which does not say how likely given tokens are as our engine does; "
            "evaluations need an engine of Loramill for it (LORAMILL_ENGINE_URLS)",
        )
    raise InvalidParameter(param, f"no engine answers for {base_model}: LORAMILL_ENGINE_URLS does not name one")
