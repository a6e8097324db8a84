"""Which errors each route can answer with, in the API's description.

A route and what it depends on name theirs with `app.http.route_errors.raises`. What any request can meet before its
route is added here. What an error means is ``core.errors``' matter.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.http.auth import describe_open
from app.http.description.routes import described_routes
from app.http.description.url_texts import describe_url_texts
from app.http.error_envelopes import Wire, wire_of
from app.http.field_types import whole
from app.http.json_body import MAX_BODY_BYTES, JsonRoute
from app.http.route_errors import Kind, raised_by
from core.errors import HostNotAllowed, InvalidInput, OriginNotAllowed

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_GENERATED: Final = ("HTTPValidationError", "ValidationError")  # FastAPI's answer to bad fields, which is never ours
_ENVELOPES: Final[dict[Wire, dict[str, Any]]] = {
    Wire.OPENAI: {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
            }
        },
    },
    Wire.TGI: {
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
    },
}


class DescribedApi(FastAPI):
    """An app whose description has every status that a route can answer with, and the key only where it has one."""

    def __init__(self, *, has_key: bool, **options: Any) -> None:
        super().__init__(**options, generate_unique_id_function=_name_of)
        self.has_key = has_key

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            description = super().openapi()
            _describe_errors(description, described_routes(self))
            describe_url_texts(description)
            if not self.has_key:
                describe_open(description)
            self.openapi_schema = _with_whole_bounds(description)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _name_of(route: APIRoute) -> str:
    return route.name  # what clients are generated from, and links refer to


def errors_of(route: APIRoute) -> frozenset[Kind]:
    """Give all errors that a route can answer with."""
    before: set[Kind] = {InvalidInput, HostNotAllowed}
    if not (route.methods or set()) <= _SAFE_METHODS:
        before.add(OriginNotAllowed)
    return frozenset(before | {kind for dependant in _all_of(route.dependant) for kind in raised_by(dependant.call)})


def _all_of(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for needed in dependant.dependencies:
        yield from _all_of(needed)


def _describe_errors(description: dict[str, Any], routes: Iterable[APIRoute]) -> None:
    for route in routes:
        for method in route.methods or ():
            responses = description["paths"][route.path_format][method.lower()]["responses"]
            _drop_generated(responses)
            for status, sentences in sorted(_by_status(route).items()):
                responses.setdefault(str(status), _response(route.path_format, sentences))
    schemas = description.get("components", {}).get("schemas", {})
    for name in _GENERATED:
        schemas.pop(name, None)


def _with_whole_bounds(description: Any) -> Any:
    """Write whole numbers as such: the framework makes floats of bounds, and 2**63 as one is read with other digits."""
    if isinstance(description, dict):
        return {name: _with_whole_bounds(value) for name, value in description.items()}
    if isinstance(description, list):
        return [_with_whole_bounds(value) for value in description]
    return whole(description)


def _drop_generated(responses: dict[str, Any]) -> None:
    if _GENERATED[0] in str(responses.get("422")):
        del responses["422"]


def _by_status(route: APIRoute) -> dict[int, list[str]]:
    """Give a sentence for each error, by its status."""
    sentences: defaultdict[int, list[str]] = defaultdict(list)
    for kind in sorted(errors_of(route), key=lambda kind: kind.code):
        assert kind.__doc__ is not None
        sentences[kind.status].append(f"`{kind.code}`: {' '.join(kind.__doc__.split())}")
    if isinstance(route, JsonRoute) and route.body_field is not None:
        sentences[413].append(f"`request_entity_too_large`: The body is larger than {MAX_BODY_BYTES:,} bytes.")
    return sentences


def _response(path: str, sentences: list[str]) -> dict[str, Any]:
    return {
        "description": "\n\n".join(sentences),
        "content": {"application/json": {"schema": _ENVELOPES[wire_of(path)]}},
    }
