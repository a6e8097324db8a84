"""Clients of an OpenAI-style server, in a process of their own: what each request took, token by token.

``python -m benchmarks.serving.over_http.client`` reads a `Plan` (JSON) from stdin and prints the `Answered` (a JSON
list) as its last line. Knows no model: a prompt is text or ids, and a piece of a stream that holds text counts as a
token's.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from pydantic import TypeAdapter

from benchmarks.host.processes import ROOT

SILENCE_S: Final = 600.0


@dataclass(frozen=True)
class Ask:
    """One request: the body to post, and when it may go at the earliest, in seconds after the plan's start."""

    body: dict[str, Any]
    at_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What each client asks, one request after the other; all clients begin at once.

    ``seconds`` ends the whole plan; what is under way then is given up and counted as it stands.
    """

    url: str
    clients: list[list[Ask]]
    seconds: float | None = None


@dataclass(frozen=True)
class Answered:
    """What became of one request; times are seconds since the plan's start. ``status`` 0: no answer, or cut off."""

    client: int
    status: int
    began_s: float
    pieces_s: list[float] = field(default_factory=list)  # when each piece of text came; one where nothing is streamed
    ended_s: float = 0.0
    tokens: int = 0
    retry_after: str | None = None
    error: str = ""
    text: str = ""

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.pieces_s[0] - self.began_s

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


def ask(plan: Plan) -> list[Answered]:
    """Carry out a plan in a process of its own.

    Raises:
        RuntimeError: the process failed; the message holds the end of what it wrote to stderr.
    """
    command = [sys.executable, "-m", "benchmarks.serving.over_http.client"]
    written = TypeAdapter(Plan).dump_json(plan).decode()
    ended = subprocess.run(command, cwd=ROOT, input=written, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"the clients ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    return TypeAdapter(list[Answered]).validate_json(ended.stdout.splitlines()[-1])


async def carry_out(plan: Plan) -> list[Answered]:
    """Let all clients ask; give the answers in the order in which they ended."""
    answered: list[Answered] = []
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(timeout=SILENCE_S, trust_env=False, limits=limits) as http:
        start = time.perf_counter()
        clients = [_Client(http, plan.url, number, start, answered) for number in range(len(plan.clients))]
        everyone = [asyncio.create_task(one.run(asks)) for one, asks in zip(clients, plan.clients, strict=True)]
        _, late = await asyncio.wait(everyone, timeout=plan.seconds)
        for task in late:
            task.cancel()
        for outcome in await asyncio.gather(*everyone, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
    return answered


class _Client:
    """One client: asks, waits for the end, asks again."""

    def __init__(self, http: httpx2.AsyncClient, url: str, number: int, start: float, answered: list[Answered]) -> None:
        self._http = http
        self._url = url
        self._number = number
        self._start = start
        self._answered = answered

    async def run(self, asks: Sequence[Ask]) -> None:
        for one in asks:
            await asyncio.sleep(one.at_s - self._now())
            await self._ask(one)

    async def _ask(self, one: Ask) -> None:
        seen = _Seen(began_s=self._now())
        try:
            async with self._http.stream("POST", f"{self._url}/v1/completions", json=one.body) as response:
                seen.retry_after = response.headers.get("retry-after")
                if response.status_code != 200:
                    seen.status, seen.error = response.status_code, (await response.aread()).decode()[:500]
                elif response.headers["content-type"].startswith("text/event-stream"):
                    async for line in response.aiter_lines():
                        if line.startswith("data: {"):
                            seen.take(json.loads(line.removeprefix("data: ")), self._now())
                    seen.status = 0 if seen.error else 200
                else:
                    seen.take(json.loads(await response.aread()), self._now())
                    seen.status = 200
        except httpx2.TransportError as error:
            seen.error = repr(error)
        finally:  # also where the plan's time is over
            self._answered.append(seen.answered(self._number, self._now()))

    def _now(self) -> float:
        return time.perf_counter() - self._start


@dataclass
class _Seen:
    """What has come of an answer so far."""

    began_s: float
    status: int = 0
    error: str = ""
    retry_after: str | None = None
    pieces_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    usage_tokens: int | None = None

    def take(self, chunk: dict[str, Any], now_s: float) -> None:
        if "error" in chunk:
            self.error = json.dumps(chunk["error"])[:500]
        text = "".join(choice.get("text") or "" for choice in chunk.get("choices", ()))
        if text:
            self.texts.append(text)
            self.pieces_s.append(now_s)
        if chunk.get("usage"):
            self.usage_tokens = chunk["usage"]["completion_tokens"]

    def answered(self, client: int, now_s: float) -> Answered:
        # without usage (an answer that was cut off) a piece is taken for a token
        tokens = len(self.pieces_s) if self.usage_tokens is None else self.usage_tokens
        return Answered(
            client=client,
            status=self.status,
            began_s=self.began_s,
            pieces_s=self.pieces_s,
            ended_s=now_s,
            tokens=tokens,
            retry_after=self.retry_after,
            error=self.error,
            text="".join(self.texts),
        )


def main() -> None:
    """Carry out the plan on stdin."""
    plan = TypeAdapter(Plan).validate_json(sys.stdin.read())
    answered = asyncio.run(carry_out(plan))
    print(TypeAdapter(list[Answered]).dump_json(answered).decode())


if __name__ == "__main__":
    main()
