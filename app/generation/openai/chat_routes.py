"""/v1/chat/completions: OpenAI's chat."""

import time

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.generation.answered_by import headers_of
from app.generation.openai.chat import ServedChat
from app.generation.openai.chat_schemas import ChatCreate, ChatOut
from app.generation.openai.sampling import whose
from app.http import sse
from app.http.auth import CallerDep, require_caller
from app.http.deps import RuntimeDep
from app.http.json_body import JsonRoute
from app.http.route_errors import ASKING, raises
from app.models.service import engine_for, look_up

router = APIRouter(
    prefix="/v1/chat/completions",
    tags=["generation"],
    dependencies=[Depends(require_caller)],
    route_class=JsonRoute,
)


@router.post("", response_model=ChatOut, responses=sse.OR_EVENTS)
@raises(*ASKING)
async def create_chat_completion(
    body: ChatCreate, request: Request, response: Response, runtime: RuntimeDep, caller: CallerDep
) -> Response | ChatOut:
    """Answer a conversation, by the chat template of a base model, a fine-tuned model, a checkpoint or an alias'."""
    model = await run_in_threadpool(
        look_up, runtime.database, runtime.settings, body.model, whose=whose(caller, body.user)
    )
    chat = ServedChat(body, model, engine_for(runtime, model), caller=caller, now=int(time.time()))
    if body.stream:
        stream = await sse.stream(request, chat.chunks())
        stream.headers.update(headers_of(model))
        return stream
    answer = await sse.while_connected(request, chat.whole())
    response.headers.update(headers_of(model))
    return answer
