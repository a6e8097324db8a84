"""/v1/render: the text and the token ids that a model is fed for a prompt."""

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool

from app.generation import render_service
from app.generation.render_schemas import RenderCreate, RenderOut
from app.http import sse
from app.http.auth import require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, raises
from app.models.service import look_up

router = APIRouter(
    prefix="/v1/render",
    tags=["generation"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.post("")
@raises(*ASKING)
async def render_prompt(body: RenderCreate, request: Request, runtime: RuntimeDep) -> RenderOut:
    """Show what a model is fed for a prompt, for the variables of its prompt format, or for a conversation."""
    model = await run_in_threadpool(look_up, runtime.database, runtime.settings, body.model)
    engine = runtime.engines.get(model.base_model)
    return await sse.while_connected(request, render_service.render(body, model, engine))
