"""/metrics: what this process counts, and an engine's numbers for who cannot reach the engine itself."""

from typing import Protocol, runtime_checkable

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.http.auth import require_caller
from app.http.deps import EnginesDep, MetricsDep, RuntimeDep, SettingsDep
from app.http.route_errors import raises
from core.errors import EngineUnavailable, GenerationFailed, NotFound

# They name models and tell the load, so they want the key as all the rest does.
router = APIRouter(tags=["metrics"], dependencies=[Depends(require_caller)])


@runtime_checkable
class Counting(Protocol):
    """An engine that tells its numbers in Prometheus' text format."""

    async def metrics(self) -> bytes: ...


@router.get("/metrics", response_class=PlainTextResponse)
async def tell_metrics(metrics: MetricsDep, runtime: RuntimeDep) -> Response:
    """Give this process's requests, response times, open streams and answers for aliases in Prometheus' text format."""
    exposition = metrics.exposition() + runtime.alias_answers.metrics.exposition()
    return Response(exposition, media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/metrics/{base_model}", response_class=PlainTextResponse)
@raises(NotFound, EngineUnavailable, GenerationFailed)
async def tell_engine_metrics(base_model: str, settings: SettingsDep, engines: EnginesDep) -> Response:
    """Give the numbers of a base model's engine in the same format."""
    if base_model not in settings.base_models:
        raise NotFound(f"/metrics/{base_model} (no base model is called so)")
    engine = engines.get(base_model)
    if not isinstance(engine, Counting):
        raise NotFound(f"/metrics/{base_model} (ask that engine itself)")
    return Response(await engine.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
