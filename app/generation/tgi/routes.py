"""/generate, /generate_stream and /: the wire of text-generation-inference and LoRAX."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.generation.tgi.parameters import model_name
from app.generation.tgi.schemas import GenerateCreate, GenerateOut
from app.generation.tgi.service import Generation
from app.http import sse
from app.http.auth import CallerDep, require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, raises
from app.http.runtime import ApiRuntime
from app.models.service import engine_for, look_up

router = APIRouter(tags=["generation"], dependencies=[Depends(require_caller)], route_class=JsonRoute)


async def _begin(body: GenerateCreate, runtime: ApiRuntime, caller: str) -> Generation:
    name = model_name(body, runtime.settings)
    model = await run_in_threadpool(look_up, runtime.database, runtime.settings, name, whose=caller)
    return Generation(body, model, engine_for(runtime, model), caller=caller)


async def _whole(
    body: GenerateCreate, request: Request, response: Response, runtime: ApiRuntime, caller: str
) -> GenerateOut:
    generation = await _begin(body, runtime, caller)
    answer = await sse.while_connected(request, generation.whole())
    response.headers.update(generation.headers)
    return answer


@router.post("/generate", response_model=GenerateOut | list[GenerateOut], responses=sse.OR_EVENTS)
@raises(*ASKING)
async def generate(
    body: GenerateCreate, request: Request, response: Response, runtime: RuntimeDep, caller: CallerDep
) -> Any:
    """Generate text from an input, with the base model or the fine-tuned model named by adapter_id."""
    # Clients of "/" name the field "stream" even where they want no stream, and read an array. Someone
    # who gave them this URL as their base gets what they can read.
    if "stream" in body.model_fields_set:
        return await generate_as_asked(body, request, response, runtime, caller)
    return await _whole(body, request, response, runtime, caller)


@router.post("/generate_stream", response_class=StreamingResponse, responses=sse.OR_EVENTS)
@raises(*ASKING)
async def generate_stream(body: GenerateCreate, request: Request, runtime: RuntimeDep, caller: CallerDep) -> Response:
    """Generate text token by token, as server-sent events."""
    generation = await _begin(body, runtime, caller)
    stream = await sse.stream(request, generation.events())
    stream.headers.update(generation.headers)
    return stream


@router.post("/", response_model=list[GenerateOut], responses=sse.OR_EVENTS)
@raises(*ASKING)
async def generate_as_asked(
    body: GenerateCreate, request: Request, response: Response, runtime: RuntimeDep, caller: CallerDep
) -> Any:
    """Generate as the field "stream" says: events, or an array of one answer."""
    if body.stream:
        return await generate_stream(body, request, runtime, caller)
    return [await _whole(body, request, response, runtime, caller)]
