"""How a JSON body is read: bounded in size and shape, and by a strict parser.

The standard library's parser takes NaN, infinite numbers and half characters, and some of them would
fail only when they reach a database.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.http.auth import refuse_stranger, wants_key
from app.http.json_shape import find_excess, find_excess_unread
from core.errors import InvalidInput

MAX_BODY_BYTES: Final = 8 * 2**20


class JsonRoute(APIRoute):
    """A route whose body is JSON of at most `MAX_BODY_BYTES`, read only for who has the key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        is_closed = wants_key(self.dependant)

        async def handle_strictly(request: Request) -> Response:
            if is_closed:
                await refuse_stranger(request)
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


class _JsonRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            body = bytearray()
            async for chunk in self.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
            self._body = bytes(body)
        return self._body

    async def json(self) -> Any:
        raw = await self.body()
        _refuse(find_excess_unread(raw))
        body = orjson.loads(raw)
        _refuse(find_excess(body))
        return body


async def require_no_body(request: Request) -> None:
    """Refuse what is sent to a route that takes nothing, so that no field is taken for one that counts.

    Raises:
        InvalidInput: there is a body, and it is not an empty object.
    """
    if (await request.body()).strip() not in (b"", b"{}"):
        raise InvalidInput("this request takes no body; leave it out")


def _refuse(excess: str | None) -> None:
    if excess is not None:
        raise HTTPException(413, f"the body has {excess}; send less in one request")
