"""The dependencies that routes ask for; the only code that touches ``app.state``.

Those that only hand something over are ``async``: FastAPI would send each of the others through a thread.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Request

from app.engines.routing import Engines
from app.http.metrics import RequestMetrics
from app.http.route_errors import READING, WRITING, raises
from app.http.runtime import ApiRuntime
from core.base_models.registry import Registry
from core.dispatch.doorbell import Notifier
from core.errors import InvalidParameter
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Database, Session


def attach_metrics(app: FastAPI, metrics: RequestMetrics) -> None:
    """Make what is counted of this app's requests reachable for the route that tells it."""
    app.state.metrics = metrics


def attach(app: FastAPI, runtime: ApiRuntime) -> None:
    """Make the runtime reachable for the dependencies of this app's requests."""
    app.state.runtime = runtime


def settings_of(request: Request) -> Settings:
    """Give the settings to what is asked before any dependency."""
    return cast(ApiRuntime, request.app.state.runtime).settings


async def _runtime(request: Request) -> ApiRuntime:
    return cast(ApiRuntime, request.app.state.runtime)


RuntimeDep = Annotated[ApiRuntime, Depends(_runtime)]


async def _settings(runtime: RuntimeDep) -> Settings:
    return runtime.settings


async def _metrics(request: Request) -> RequestMetrics:
    return cast(RequestMetrics, request.app.state.metrics)


@raises(*READING)
async def _database(runtime: RuntimeDep) -> Database:
    return runtime.database


async def _blobs(runtime: RuntimeDep) -> BlobStore:
    return runtime.blobs


async def _registry(runtime: RuntimeDep) -> Registry:
    return runtime.registry


async def _engines(runtime: RuntimeDep) -> Engines:
    return runtime.engines


async def _doorbell(runtime: RuntimeDep) -> Notifier:
    return runtime.doorbell


@raises(*READING)
def _reading(runtime: RuntimeDep) -> Iterator[Session]:
    with runtime.database.read() as session:
        yield session


@raises(*WRITING)
def _writing(runtime: RuntimeDep) -> Iterator[Session]:
    with runtime.database.write() as session:
        yield session


SettingsDep = Annotated[Settings, Depends(_settings)]
MetricsDep = Annotated[RequestMetrics, Depends(_metrics)]
DatabaseDep = Annotated[Database, Depends(_database)]
BlobsDep = Annotated[BlobStore, Depends(_blobs)]
RegistryDep = Annotated[Registry, Depends(_registry)]
EnginesDep = Annotated[Engines, Depends(_engines)]
DoorbellDep = Annotated[Notifier, Depends(_doorbell)]
# scope="function": the commit comes before the response, so a commit that fails is not answered by 200.
ReadSession = Annotated[Session, Depends(_reading, scope="function")]
WriteSession = Annotated[Session, Depends(_writing, scope="function")]


async def require_each_once(request: Request) -> None:
    """Refuse a query in which a parameter stands twice: only the last would count, and no route takes several.

    Raises:
        InvalidParameter: names it.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise InvalidParameter(twice, "stands in the query more than once; give it once")
