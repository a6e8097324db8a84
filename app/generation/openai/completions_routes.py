"""/v1/completions: OpenAI's text completions."""

import time

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.generation.openai.completions import ServedCompletion
from app.generation.openai.completions_schemas import CompletionCreate, CompletionOut
from app.http import sse
from app.http.auth import CallerDep, require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, raises
from app.models.service import look_up

router = APIRouter(
    prefix="/v1/completions",
    tags=["generation"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.post("", response_model=CompletionOut, responses=sse.OR_EVENTS)
@raises(*ASKING)
async def create_completion(
    body: CompletionCreate, request: Request, runtime: RuntimeDep, caller: CallerDep
) -> Response | CompletionOut:
    """Complete one or more prompts with a base model, a fine-tuned model or a checkpoint."""
    model = await run_in_threadpool(look_up, runtime.database, runtime.settings, body.model)
    completion = ServedCompletion(
        body, model, runtime.engines.get(model.base_model), caller=caller, now=int(time.time())
    )
    if body.stream:
        return await sse.stream(request, completion.chunks())
    return await sse.while_connected(request, completion.whole())
