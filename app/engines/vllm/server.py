"""HTTP with one vLLM server (0.32's routes): its models, its adapters, and completions as a stream.

Says what the server said; what that means for a request or an adapter is its callers' matter.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
from pydantic import BaseModel, ValidationError

from core.errors import EngineUnavailable, GenerationFailed

_CONNECT_S: Final = 3.0
_LIST_S: Final = 3.0
# The server reads an adapter in its engine's loop, so behind whatever step is under way.
_LOAD_S: Final = 120.0
# Between two chunks lie its queue and other requests' prompts.
_SILENCE_S: Final = 300.0
_MESSAGE_CHARS: Final = 500


class Refusal(Exception):
    """The server answered an error. ``has_route`` is False where it does not know the path at all."""

    def __init__(self, status: int, message: str, param: str | None = None, *, has_route: bool = True) -> None:
        super().__init__(status, message, param)
        self.status = status
        self.message = message
        self.param = param
        self.has_route = has_route


class Disconnected(Exception):
    """The connection ended before the answer did: the server may have been started anew, without its adapters."""


class Card(BaseModel):
    """A model that the server lists. A base model has no parent, and says how long its context is."""

    id: str
    root: str | None = None  # the folder or name that it was loaded from
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(BaseModel):
    data: list[Card]


class VllmServer:
    """One server at ``http://host:port``; used from one event loop."""

    def __init__(self, base_model: str, url: str) -> None:
        self._base_model = base_model
        self._client = httpx2.AsyncClient(
            base_url=url,
            # No limit on connections: admission decides who waits, not the pool. No environment: a
            # proxy must not stand between.
            transport=httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None), trust_env=False),
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
            trust_env=False,
        )

    async def list_models(self) -> list[Card]:
        """List base model and adapters.

        Raises:
            EngineUnavailable: the server cannot be reached, or is no vLLM server.
        """
        with self._unreachable():
            response = await self._client.get("/v1/models", timeout=_LIST_S)
        if response.status_code != 200:
            raise EngineUnavailable(self._base_model, f"it answered {response.status_code} for its models")
        try:
            return _Cards.model_validate_json(response.content).data
        except ValidationError as error:
            raise EngineUnavailable(self._base_model, "it does not list models as vLLM does") from error

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under a new name, never in place of another.

        Raises:
            Refusal: the server does not load it.
            EngineUnavailable: the server cannot be reached, or is silent for two minutes.
        """
        await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter's name away; the server frees its memory when it needs it.

        Raises:
            Refusal: there is no such name.
            EngineUnavailable: the server cannot be reached.
        """
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield a completion's chunks; closing the generator closes the connection, which cancels it there.

        Raises:
            Refusal: the server refused the request, before its first chunk or later.
            Disconnected: the connection ended before the answer.
            EngineUnavailable: the server cannot be reached, or is silent for five minutes.
            GenerationFailed: what came is no stream of chunks.
        """
        with self._unreachable():
            try:
                async with self._client.stream("POST", "/v1/completions", json=body) as response:
                    if response.status_code != 200:
                        raise _refusal_of(response.status_code, await response.aread())
                    async for line in response.aiter_lines():
                        if line == "data: [DONE]":
                            return
                        # other lines are empty, or comments that keep the connection open
                        if line.startswith("data: "):
                            yield _read_chunk(line.removeprefix("data: "))
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
                raise Disconnected(str(error) or type(error).__name__) from error
        raise Disconnected("the stream has no end mark")

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, path: str, body: dict[str, str]) -> None:
        with self._unreachable():
            response = await self._client.post(path, json=body, timeout=httpx2.Timeout(_LOAD_S, connect=_CONNECT_S))
        if response.status_code != 200:
            raise _refusal_of(response.status_code, response.content)

    @contextmanager
    def _unreachable(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectTimeout as error:
            raise EngineUnavailable(self._base_model, "no connection in time") from error
        except httpx2.TimeoutException as error:
            raise EngineUnavailable(self._base_model, "silent for too long") from error
        except httpx2.TransportError as error:
            raise EngineUnavailable(self._base_model, str(error) or type(error).__name__) from error


def _read_chunk(text: str) -> dict[str, Any]:
    try:
        chunk = json.loads(text)
    except ValueError as error:
        raise GenerationFailed("vLLM answered something that is not JSON") from error
    if not isinstance(chunk, dict):
        raise GenerationFailed("vLLM answered something that is not a chunk")
    # a request that fails only once it is under way has status 200
    if isinstance(problem := chunk.get("error"), dict):
        code = problem.get("code")
        raise _refusal(code if isinstance(code, int) else 500, problem)
    return chunk


def _refusal_of(status: int, body: bytes) -> Refusal:
    try:
        problem = json.loads(body).get("error")
    except (ValueError, AttributeError):
        problem = None
    if isinstance(problem, dict):
        return _refusal(status, problem)
    return Refusal(status, body[:_MESSAGE_CHARS].decode(errors="replace"), has_route=status != 404)


def _refusal(status: int, error: dict[str, Any]) -> Refusal:
    param = error.get("param")
    return Refusal(status, str(error.get("message"))[:_MESSAGE_CHARS], param if isinstance(param, str) else None)
