"""Wire types of health checks."""

from typing import Literal

from app.http.wire import Out


class Liveness(Out):
    alive: Literal[True]


class Dependency(Out):
    """One thing that the API depends on. ``detail`` says what is wrong, or what there is to know."""

    ok: bool | None  # None: it cannot be told
    detail: str | None


class Readiness(Out):
    ready: bool
    parts: dict[str, Dependency]
