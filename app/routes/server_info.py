"""/info, /health and /tokenize, as text-generation-inference and LoRAX have them."""

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from app.http.auth import require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.schemas.server_info import InfoOut, TokenizeCreate, TokenPieceOut
from app.services import server_info
from app.services.generate_parameters import only_base_model
from app.services.models import look_up

router = APIRouter(tags=["generation"], route_class=JsonRoute)


@router.get("/health", tags=["health"])
async def is_healthy(runtime: RuntimeDep) -> Response:
    """Tell whether every engine answers; needs no key."""
    await server_info.check(runtime)
    return Response()


@router.get("/info", dependencies=[Depends(require_caller)])
async def describe(runtime: RuntimeDep, model: str | None = None) -> InfoOut:
    """Describe what serves a model, or the deployment's only base model."""
    name = only_base_model(runtime.settings, "model") if model is None else model
    served = await run_in_threadpool(look_up, runtime.database, runtime.settings, name)
    return await server_info.describe(runtime, served.base_model)


@router.post("/tokenize", dependencies=[Depends(require_caller)])
def tokenize(body: TokenizeCreate, runtime: RuntimeDep) -> list[TokenPieceOut]:
    """Give a text's tokens: id, text, and the characters that they stand for."""
    name = only_base_model(runtime.settings, "model") if body.model is None else body.model
    return server_info.tokenize(body, runtime.settings, look_up(runtime.database, runtime.settings, name))
