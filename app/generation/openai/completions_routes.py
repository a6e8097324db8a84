"""/v1/completions: OpenAI's text completions."""

import time

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.generation.answered_by import headers_of
from app.generation.openai.completions import ServedCompletion
from app.generation.openai.completions_schemas import CompletionCreate, CompletionOut
from app.generation.openai.sampling import whose
from app.http import sse
from app.http.auth import CallerDep, require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, raises
from app.models.service import engine_for, look_up

router = APIRouter(
    prefix="/v1/completions",
    tags=["generation"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.post("", response_model=CompletionOut, responses=sse.OR_EVENTS)
@raises(*ASKING)
async def create_completion(
    body: CompletionCreate, request: Request, response: Response, runtime: RuntimeDep, caller: CallerDep
) -> Response | CompletionOut:
    """Complete one or more prompts with a base model, a fine-tuned model, a checkpoint or what an alias stands for."""
    model = await run_in_threadpool(
        look_up, runtime.database, runtime.settings, body.model, whose=whose(caller, body.user)
    )
    completion = ServedCompletion(body, model, engine_for(runtime, model), caller=caller, now=int(time.time()))
    if body.stream:
        stream = await sse.stream(request, completion.chunks())
        stream.headers.update(headers_of(model))
        return stream
    answer = await sse.while_connected(request, completion.whole())
    response.headers.update(headers_of(model))
    return answer
