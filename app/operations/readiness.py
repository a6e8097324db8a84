"""Whether this process can serve: what it depends on, asked all at once."""

import asyncio

from app.http.runtime import ApiRuntime
from app.operations.health_schemas import Dependency, Readiness
from core.errors import DatabaseUnavailable, ServiceError
from core.errors.host_paths import without_host_paths
from core.store.queue import leases


async def look(runtime: ApiRuntime) -> Readiness:
    """Ask every part. Without an engine, or a database that takes writes, we cannot serve; jobs can wait for others."""
    bases = runtime.settings.base_models
    parts = await asyncio.gather(
        asyncio.to_thread(_database, runtime),
        *(_engine(runtime, base_model) for base_model in bases),
        asyncio.to_thread(_broker, runtime),
        asyncio.to_thread(_workers, runtime),
    )
    needed = dict(zip(("database", *(f"engine:{base_model}" for base_model in bases)), parts, strict=False))
    ready = all(part.ok for part in needed.values())
    return Readiness(ready=ready, parts=needed | {"broker": parts[-2], "workers": parts[-1]})


def _database(runtime: ApiRuntime) -> Dependency:
    problem = runtime.writes.find_problem()
    return Dependency(ok=problem is None, detail=problem)


async def _engine(runtime: ApiRuntime, base_model: str) -> Dependency:
    try:
        info = await runtime.engines.get(base_model).info()
    except ServiceError as error:
        return Dependency(ok=False, detail=without_host_paths(str(error)))
    return Dependency(ok=True, detail=f"{info.running_requests} requests running, {info.waiting_requests} waiting")


def _broker(runtime: ApiRuntime) -> Dependency:
    if runtime.doorbell.reaches_broker():
        return Dependency(ok=True, detail=None)
    return Dependency(ok=False, detail="the broker does not answer; jobs start when a worker next looks by itself")


def _workers(runtime: ApiRuntime) -> Dependency:
    """Tell of workers by the leases they hold; an idle worker leaves no trace in the database."""
    try:
        with runtime.database.read() as session:
            running = len(leases.list_running(session))
    except DatabaseUnavailable:
        return Dependency(ok=None, detail="not known without the database")
    return Dependency(ok=True if running else None, detail=f"{running} jobs running")
