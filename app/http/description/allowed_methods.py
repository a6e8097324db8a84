"""Answers a method that a path has not by all those that it has.

The framework keeps a path's methods as so many routes, and would tell those of the route that it came to first.
"""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response

from app.http.description.routes import routes_of
from app.http.error_envelopes import problem_of, wire_of


def install(app: FastAPI) -> None:
    """Have each 405 name the methods of its path."""

    async def answer(request: Request, error: Exception) -> Response:
        path = request.scope["path"]
        response = problem_of(error, path).response(wire_of(path))
        asked = request.scope["route"].path_format
        methods = {method for route in routes_of(app) if route.path_format == asked for method in route.methods or ()}
        response.headers["allow"] = ", ".join(sorted(methods))
        return response

    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, answer)
