"""Wire types of health checks."""

from typing import Literal

from app.http.wire import Out


class Alive(Out):
    alive: Literal[True]


class Part(Out):
    """One thing that the API depends on. ``detail`` says what is wrong, or what there is to know."""

    ok: bool | None  # None: it cannot be told
    detail: str | None


class Readiness(Out):
    ready: bool
    parts: dict[str, Part]
