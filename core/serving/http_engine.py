"""The Engine protocol over an engine process's internal HTTP: JSON in, one Delta a line out."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import httpx2
from pydantic import TypeAdapter, ValidationError

from core.errors import (
    EngineStarting,
    EngineUnavailable,
    GenerationFailed,
    HostNotAllowed,
    PromptTooLong,
    ServiceError,
)
from core.serving.error_wire import read_error
from core.serving.generation import Delta, EngineInfo, GenerationRequest, Rendering, RenderRequest

_DELTA: Final = TypeAdapter(Delta)
_ERROR_START: Final = b'{"error"'  # no delta begins so
_CONNECT_S: Final = 3.0
_INFO_S: Final = 3.0
# Between two deltas lie a queue, other requests' prompts and, on a CPU, slow steps.
_SILENCE_S: Final = 300.0
_FEW_IDS: Final = 2**14  # are sent without asking first whether they fit


class HttpEngine:
    """One engine process at ``http://host:port`` or ``unix:///path/of/socket``."""

    def __init__(self, base_model: str, url: str) -> None:
        self._base_model = base_model
        path = url.removeprefix("unix://")
        over_socket = path != url
        self._client = httpx2.AsyncClient(
            base_url="http://engine" if over_socket else url,
            # No limit on connections: the engine decides who waits, not the pool. No environment: a
            # proxy must not stand between.
            transport=httpx2.AsyncHTTPTransport(
                uds=path if over_socket else None, limits=httpx2.Limits(max_connections=None), trust_env=False
            ),
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
            trust_env=False,
            event_hooks={"response": [self._take_misdirection]},
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        if isinstance(request.prompt, tuple) and len(request.prompt) > _FEW_IDS:
            await self._check_length(request.prompt, request.sampling.max_tokens)
        with self._unreachable():
            async with self._client.stream("POST", "/generate", json=request.model_dump(mode="json")) as response:
                if response.status_code != 200:
                    raise _error_of(await response.aread())
                async with aclosing(_lines(response.aiter_raw())) as lines:
                    async for line in lines:
                        delta = _read_line(line)
                        yield delta
                        if delta.finish_reason is not None:
                            return
        raise GenerationFailed("the engine ended its answer early")

    async def render(self, request: RenderRequest) -> Rendering:
        with self._unreachable():
            response = await self._client.post("/render", json=request.model_dump(mode="json"))
        if response.status_code != 200:
            raise _error_of(response.content)
        try:
            return Rendering.model_validate_json(response.content)
        except ValidationError as error:
            raise GenerationFailed("the engine answered something that is not a rendering") from error

    async def warm(self, adapter: str) -> None:
        await self._tell("/warm", adapter)

    async def unload(self, adapter: str) -> None:
        await self._tell("/unload", adapter)

    async def info(self) -> EngineInfo:
        with self._unreachable():
            response = await self._client.get("/info", timeout=_INFO_S)
        if response.status_code != 200:
            raise self._not_ready(response)
        try:
            return EngineInfo.model_validate_json(response.content)
        except ValidationError as error:
            raise EngineUnavailable(self._base_model, "it does not speak this version's protocol") from error

    async def metrics(self) -> bytes:
        """Give the engine's numbers in Prometheus' text format.

        Raises:
            EngineUnavailable: it cannot be reached.
            EngineStarting: it has none yet.
        """
        with self._unreachable():
            response = await self._client.get("/metrics", timeout=_INFO_S)
        if response.status_code != 200:
            raise self._not_ready(response)
        return response.content

    async def close(self) -> None:
        await self._client.aclose()

    async def _check_length(self, ids: tuple[int, ...], max_tokens: int) -> None:
        """Refuse here what the engine would, once it had been written out and read again."""
        context_tokens = (await self.info()).context_tokens
        if len(ids) + max_tokens > context_tokens:
            raise PromptTooLong(len(ids), max_tokens, context_tokens)

    async def _tell(self, path: str, adapter: str) -> None:
        with self._unreachable():
            response = await self._client.post(path, json={"adapter": adapter})
        if response.status_code >= 400:
            raise _error_of(response.content)

    async def _take_misdirection(self, response: httpx2.Response) -> None:
        """Make of an engine's refusal of our Host header what it is for a client of ours: no answer."""
        if response.status_code == HostNotAllowed.status:
            raise EngineUnavailable(self._base_model, str(_error_of(await response.aread())))

    def _not_ready(self, response: httpx2.Response) -> ServiceError:
        """Say why an engine tells nothing of itself: what its start is at, if it is that."""
        error = _error_of(response.content)
        if isinstance(error, EngineStarting):
            return error
        return EngineUnavailable(self._base_model, f"it answered {response.status_code}")

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectTimeout as error:
            raise EngineUnavailable(self._base_model, "no connection in time") from error
        except httpx2.TimeoutException as error:
            raise EngineUnavailable(self._base_model, f"silent for {_SILENCE_S:.0f} s") from error
        except httpx2.TransportError as error:
            raise EngineUnavailable(self._base_model, str(error) or type(error).__name__) from error


async def _lines(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Cut chunks at b"\\n". Other line breaks, as U+2028, stand in a delta's text as they are."""
    kept = b""
    async with aclosing(chunks):
        async for chunk in chunks:
            *lines, kept = (kept + chunk).split(b"\n")
            for line in lines:
                yield line


def _read_line(line: bytes) -> Delta:
    try:
        if line.startswith(_ERROR_START):
            raise read_error(json.loads(line)["error"])
        return _DELTA.validate_json(line)
    except ValueError as error:  # pydantic's ValidationError is one too
        raise GenerationFailed("the engine answered something that is not a delta") from error


def _error_of(body: bytes) -> ServiceError:
    try:
        return read_error(json.loads(body))
    except ValueError:
        return GenerationFailed("the engine answered an error that cannot be read")
