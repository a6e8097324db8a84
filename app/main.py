"""Puts the API together. Importing it, and even creating the app, does no I/O: that begins with its lifespan."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.aliases import routes as aliases
from app.evaluations import routes as evaluations
from app.experiments import routes as experiments
from app.exports import routes as exports
from app.files import report_routes
from app.files import routes as files
from app.fine_tuning import estimate_routes, manifest_routes, preview_routes
from app.fine_tuning import routes as fine_tuning
from app.generation import render_routes
from app.generation.openai import chat_routes, completions_routes
from app.generation.tgi import info_routes
from app.generation.tgi import routes as generate
from app.http import deps, error_envelopes
from app.http.description import allowed_methods
from app.http.description.documented_errors import DescribedApi
from app.http.metrics import RequestMetrics
from app.http.middleware import OriginGuardMiddleware, RequestEdge
from app.http.runtime import ApiRuntime, open_runtime
from app.models import routes as models
from app.models.downloads import routes as downloads
from app.models.imports import routes as model_imports
from app.operations import api_description, health, metrics
from core.listening.origin_guard import OriginGuard
from core.settings import Settings

_TOLD_TO_PAGES: Final = ("retry-after", "retry-after-ms", "x-request-id", "x-should-retry")

_ROUTES: Final = (
    files,
    report_routes,
    fine_tuning,
    manifest_routes,
    estimate_routes,
    preview_routes,
    evaluations,
    experiments,
    aliases,  # before models, of whose names the path of theirs is one
    model_imports,
    exports,  # before downloads, of whose names the path of theirs is one
    downloads,  # before models, whose names may be paths
    models,
    completions_routes,
    chat_routes,
    generate,
    info_routes,
    render_routes,
    health,
    metrics,
    api_description,
)

Opener = Callable[[Settings], AbstractAsyncContextManager[ApiRuntime]]


def create_app(settings: Settings, opener: Opener = open_runtime) -> FastAPI:
    """Make the app; ``opener`` gives what it works on, from its start to its end.

    Raises:
        SettingsInvalid: a host or an origin of the settings is malformed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opener(settings) as runtime:
            deps.attach(app, runtime)
            yield

    app = DescribedApi(
        has_key=settings.api_key is not None,
        title="Loramill",
        summary="Fine-tuning of small language models, and serving of the result.",
        lifespan=lifespan,
        openapi_url=None,  # app.operations.api_description serves it to those who have a key
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    requests = RequestMetrics()
    deps.attach_metrics(app, requests)
    guard = OriginGuard.of_api(settings)
    # the last one added is met first
    if guard.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=tuple(map(str, guard.origins)),
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            allow_headers=("*",),  # clients of OpenAI's wire send many of their own
            expose_headers=_TOLD_TO_PAGES,
        )
    app.add_middleware(OriginGuardMiddleware, guard=guard)
    app.add_middleware(RequestEdge, metrics=requests)
    error_envelopes.install(app)
    allowed_methods.install(app)
    for routes in _ROUTES:
        app.include_router(routes.router, dependencies=[Depends(deps.require_each_once)])
    return app
