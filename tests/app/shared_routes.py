"""What the framework works out of an app's routes, kept for the other apps of the same routes.

Each test has an app of its own, and its routes take 50 ms and its description half a second, every time.
"""

from typing import Any, Final

from fastapi import FastAPI
from starlette.routing import BaseRoute

# Routers are told apart by their ids, so they are kept.
_kept: Final[dict[tuple[object, ...], tuple[list[object], list[BaseRoute], dict[str, Any]]]] = {}


def share_routes(app: FastAPI) -> None:
    """Give an app the routes, and their description, of the first app with the same routers."""
    routers = [getattr(route, "original_router", route) for route in app.routes]
    key = (getattr(app, "has_key", None), *map(id, routers))
    if key not in _kept:
        _kept[key] = (routers, list(app.routes), app.openapi())
    _, app.router.routes[:], app.openapi_schema = _kept[key]
