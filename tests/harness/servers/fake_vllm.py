"""A server that behaves as vLLM 0.32's API server does, as far as one who sends completions and adapters can tell.

Routes, status codes, error texts and the form of chunks are vLLM's own, as recorded from a real server; what it
answers is scripted. Tokens are bytes, as ``tests.harness.models.byte_tokenizer`` has them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.harness.models.byte_tokenizer import END_OF_TEXT

LOGPROB = -0.5  # of every chosen token; the byte "a" is always likelier, "b" less likely
LIKELIER = -0.25


class FakeVllm:
    """Answers ``reply`` byte by byte, then the end token; with an adapter, its name's last four letters before it.

    Attributes:
        loads: names that were to be loaded, refused ones too.
        loras: folders by adapter name; a restart of the real server forgets them, as ``restart`` does.
        bodies: what each completion asked for.
        full: how many completions are yet to be refused because the queue is full.
        breaks: how many streams are yet to be cut, after so many chunks.
        left: set when a client closed a stream before its end.
        holds: where set, awaited after the first chunk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.context_tokens = 256
        self.reply = b" one"
        self.loras: dict[str, str] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.full = 0
        self.breaks: list[int] = []
        self.late_error: dict[str, Any] | None = None  # as the first event of a stream whose status is 200
        self.load_error: tuple[int, str] | None = None
        self.has_lora_routes = True
        self.cached_tokens = 0
        self.left = asyncio.Event()
        self.holds: asyncio.Event | None = None

    def app(self) -> Starlette:
        lora_routes = [
            Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
        ]
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                *(lora_routes if self.has_lora_routes else []),
            ]
        )

    def restart(self) -> None:
        self.loras.clear()

    async def _models(self, request: Request) -> Response:
        base = {"id": str(self.root), "root": str(self.root), "parent": None, "max_model_len": self.context_tokens}
        adapters = [
            {"id": name, "root": path, "parent": str(self.root), "max_model_len": None}
            for name, path in self.loras.items()
        ]
        return JSONResponse({"object": "list", "data": [base, *adapters]})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        assert not body.get("load_inplace"), "an adapter was to be put in the place of another"
        self.loads.append(name)
        if name in self.loras:
            return _error(400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter "
                          "in place, set 'load_inplace' to True.", "InvalidUserInput")  # fmt: skip
        if self.load_error is not None:
            return _error(*self.load_error, "InternalServerError")
        if not (Path(path) / "adapter_config.json").exists():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        self.loras[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in self.loras:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        del self.loras[name]
        self.unloads.append(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.full:
            self.full -= 1
            return _error(503, "The engine is currently busy and cannot accept new requests. Please try again later "
                          "or on a different instance.", "Service Unavailable")  # fmt: skip
        if body["model"] not in {str(self.root), *self.loras}:
            return _error(404, f"The model `{body['model']}` does not exist.", param="model")
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        if self.late_error is not None:
            yield _event({"error": self.late_error})
            yield "data: [DONE]\n\n"
            return
        cut = self.breaks.pop(0) if self.breaks else None
        choices = self._choices(body)
        try:
            for number, choice in enumerate(choices):
                if number == cut:
                    raise ConnectionError("the server died")
                yield ": keep-alive\n\n"
                yield _event({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, **choice}]})
                if self.holds is not None:
                    await self.holds.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        tokens = sum(len(choice["token_ids"]) for choice in choices)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens}
        details = {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}} if self.cached_tokens else {}
        yield _event({"choices": [], "usage": usage | details})
        yield "data: [DONE]\n\n"

    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Give one choice a token; where a stop string ends the answer, its text is held back as vLLM does."""
        mark = "" if body["model"] == str(self.root) else body["model"][-4:]
        ids = [*mark.encode(), *self.reply, END_OF_TEXT]
        text, choices = "", []
        for number, token_id in enumerate(ids, start=1):
            is_end = token_id in body["stop_token_ids"]
            before, text = text, text + ("" if is_end else chr(token_id))
            met = next((stop for stop in body["stop"] if stop in text), None)
            reason = "stop" if is_end or met else "length" if number == body["max_tokens"] else None
            shown = text[len(before) :] if met is None else ""
            choice = {
                "text": shown,
                "token_ids": [token_id],
                "finish_reason": reason,
                "stop_reason": met or (token_id if is_end else None),
                "logprobs": _logprobs(body, token_id, with_prompt=number == 1 and body["echo"]),
            }
            choices.append(choice)
            if reason is not None:
                break
        return choices


def _logprobs(body: dict[str, Any], token_id: int, *, with_prompt: bool) -> dict[str, Any]:
    ids = [*body["prompt"], token_id] if with_prompt else [token_id]
    likeliest = {ord("a"): LIKELIER, ord("b"): 2 * LOGPROB}
    tops: list[dict[str, float] | None] = [
        {f"token_id:{one}": logprob for one, logprob in ({each: LOGPROB} | likeliest).items()} for each in ids
    ]
    logprobs: list[float | None] = [LOGPROB] * len(ids)
    if with_prompt:
        tops[0] = logprobs[0] = None
    return {"tokens": [f"token_id:{each}" for each in ids], "token_logprobs": logprobs, "top_logprobs": tops}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _error(status: int, message: str, kind: str = "NotFoundError", param: str | None = None) -> Response:
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": param, "code": status}}, status_code=status
    )
