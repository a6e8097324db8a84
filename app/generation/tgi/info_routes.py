"""/info, /health and /tokenize, as text-generation-inference and LoRAX have them."""

from functools import partial

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from app.generation.tgi import info_service
from app.generation.tgi.info_schemas import InfoOut, TokenizeCreate, TokenPieceOut
from app.generation.tgi.parameters import only_base_model
from app.http.auth import require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, READING, raises
from app.models.service import look_up
from core.errors import (
    BaseModelNotReady,
    BaseModelNotServed,
    EngineUnavailable,
    GenerationFailed,
    ModelNotFound,
    PromptTooLong,
)

router = APIRouter(tags=["generation"], route_class=JsonRoute)


@router.get("/health", tags=["health"], response_class=Response)
@raises(EngineUnavailable, GenerationFailed, BaseModelNotReady)
async def is_healthy(runtime: RuntimeDep) -> Response:
    """Tell whether every engine answers; needs no key."""
    await info_service.check(runtime)
    return Response()


@router.get("/info", dependencies=[Depends(require_caller)])
@raises(*ASKING)
async def describe(runtime: RuntimeDep, model: str | None = None) -> InfoOut:
    """Describe what serves a model, or the deployment's only base model."""
    name = only_base_model(runtime.settings, "model") if model is None else model
    served = await run_in_threadpool(look_up, runtime.database, runtime.settings, name)
    return await info_service.describe(runtime, served.base_model)


@router.post("/tokenize", response_model=list[TokenPieceOut], dependencies=[Depends(require_caller)])
@raises(*READING, ModelNotFound, BaseModelNotServed, BaseModelNotReady, PromptTooLong)
async def tokenize(body: TokenizeCreate, runtime: RuntimeDep) -> Response:
    """Give a text's tokens, at most as many as a prompt may have: id, text, and the characters they stand for."""
    name = only_base_model(runtime.settings, "model") if body.model is None else body.model
    model = await run_in_threadpool(look_up, runtime.database, runtime.settings, name)
    read = partial(info_service.tokenize, body, runtime.settings, model.base_model)
    return Response(await runtime.readers.run(read, chars=len(body.inputs)), media_type="application/json")
