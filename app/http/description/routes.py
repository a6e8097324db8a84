"""The routes of an app, which the framework keeps in its routers."""

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts


def routes_of(app: FastAPI) -> list[APIRoute]:
    """Give all routes; one path has a route for each of its methods."""
    routes = (context.original_route for context in iter_route_contexts(app.routes))
    return [route for route in routes if isinstance(route, APIRoute)]


def described_routes(app: FastAPI) -> list[APIRoute]:
    """Give those that the API's description has."""
    return [route for route in routes_of(app) if route.include_in_schema]
