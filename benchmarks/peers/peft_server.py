"""The two services that are usually built on PEFT, behind OpenAI's completions: a peer of ours in benchmarks.

``batch`` gathers up to 8 waiting requests and generates for all of them at once, each row with its own adapter
(``adapter_names``); the next batch waits for its longest row. ``lock`` answers one request at a time behind
``set_adapter``. Neither streams. ``python -m benchmarks.peers.peft_server KIND TYPE BASE PORT [NAME=FOLDER ...]``
"""

import argparse
import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer, GenerationConfig

from benchmarks.host.number_types import BOTH
from benchmarks.peers.peft_models import BASE, load_adapters
from worker.models.precision import resolve_dtype

MOST_ROWS: Final = 8
GATHER_S: Final = 0.01  # how long a first request waits for others


class GenerateBody(BaseModel):
    """The fields of OpenAI's request that are looked at; ``model`` is an adapter's name, any other is the base."""

    model: str
    prompt: str
    max_tokens: int = 16


@dataclass
class _Waiting:
    body: GenerateBody
    answer: asyncio.Future[dict[str, Any]]


class PeftService:
    """A base model with adapters, asked for rows of text."""

    def __init__(self, base: Path, adapters: dict[str, Path], dtype: torch.dtype) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = load_adapters(base, adapters, dtype)
        self._names = set(adapters)
        self._lock = threading.Lock()

    def answer_batch(self, bodies: Sequence[GenerateBody]) -> list[dict[str, Any]]:
        """Generate for all rows at once, each with its adapter."""
        names = [body.model if body.model in self._names else BASE for body in bodies]
        return self._generate(bodies, {"adapter_names": names} if self._names else {})

    def answer_alone(self, body: GenerateBody) -> dict[str, Any]:
        """Generate for one request, with its adapter made the active one."""
        with self._lock:
            if body.model not in self._names:
                if not self._names:
                    return self._generate([body], {})[0]
                with self._model.disable_adapter():
                    return self._generate([body], {})[0]
            self._model.set_adapter(body.model)
            return self._generate([body], {})[0]

    def _generate(self, bodies: Sequence[GenerateBody], more: dict[str, Any]) -> list[dict[str, Any]]:
        inputs = self._tokenizer([body.prompt for body in bodies], return_tensors="pt", padding=True)
        most = max(body.max_tokens for body in bodies)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=most, use_cache=True, pad_token_id=self._tokenizer.pad_token_id
        )
        with torch.inference_mode():
            out_BT = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=config,
                **more,
            )
        rows = out_BT[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._answer(body, row[: body.max_tokens]) for body, row in zip(bodies, rows, strict=True)]

    def _answer(self, body: GenerateBody, ids: list[int]) -> dict[str, Any]:
        return {
            "model": body.model,
            "choices": [{"index": 0, "text": self._tokenizer.decode(ids), "finish_reason": "length"}],
            "usage": {"completion_tokens": len(ids)},
        }


def create_app(service: PeftService, kind: str) -> FastAPI:
    """Make the service's app."""
    waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(_answer_batches(service, waiting))
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/completions")
    async def complete(body: GenerateBody) -> dict[str, Any]:
        if kind == "lock":
            return await asyncio.to_thread(service.answer_alone, body)
        row = _Waiting(body, asyncio.get_running_loop().create_future())
        waiting.put_nowait(row)
        return await row.answer

    return app


async def _answer_batches(service: PeftService, waiting: asyncio.Queue[_Waiting]) -> None:
    while True:
        rows = [await waiting.get()]
        await asyncio.sleep(GATHER_S)
        while len(rows) < MOST_ROWS and not waiting.empty():
            rows.append(waiting.get_nowait())
        try:
            answers = await asyncio.to_thread(service.answer_batch, [row.body for row in rows])
        except Exception as error:
            for row in rows:
                row.answer.set_exception(error)
            continue
        for row, answer in zip(rows, answers, strict=True):
            row.answer.set_result(answer)


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("batch", "lock"))
    parser.add_argument("dtype", choices=BOTH, help="what it computes in")
    parser.add_argument("base", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("adapters", nargs="*", metavar="NAME=FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    adapters = {name: Path(folder) for name, folder in (one.split("=", 1) for one in options.adapters)}
    app = create_app(PeftService(options.base, adapters, resolve_dtype(options.dtype)), options.kind)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
