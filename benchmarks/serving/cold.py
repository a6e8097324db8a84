"""The cold section: a request for an adapter that no one asked for before, while others' answers are streamed.

On a model of Phi-2's widths with 4 layers; the adapters are of rank 128, so their files are as large as those of
rank 16 on the whole Phi-2.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.home import build_home
from benchmarks.serving.over_http.client import Answered, Ask, Plan, ask
from benchmarks.serving.over_http.requests import OURS_MORE, body
from benchmarks.serving.over_http.servers import running

ADAPTERS, RANK = 5, 128
STREAMS, STREAM_TOKENS = 3, 1900
FIRST_S, EVERY_S = 3.0, 1.0  # when the first adapter is asked for, and the time to each next request
PROMPT: Final = list(range(1, 9))
OTHER_PROMPT: Final = list(range(11, 19))
# Letters, so that every token is a piece of text at once: half of a character would be held back.
LETTERS: Final = {str(token_id): 50 for token_id in range(32, 58)}
MORE: Final = OURS_MORE | {"logit_bias": LETTERS}


def run(console: Console, base: Path, folder: Path, *, adapters: int = ADAPTERS, rank: int = RANK) -> dict[str, Any]:
    """Measure it; each adapter is asked for twice, the second time while it is in use already."""
    home = build_home(folder / "home", base)
    names = home.publish([AdapterSpec(f"c{n}", rank, seed=n) for n in range(adapters)])
    file_bytes = (home.adapters_folder / "c0" / "adapter_model.safetensors").stat().st_size
    streams = [[Ask(body(home.base_model, [20 + n, *PROMPT], STREAM_TOKENS, **MORE))] for n in range(STREAMS)]
    asks = []
    for number, model in enumerate(names.values()):
        for second, prompt in enumerate((PROMPT, OTHER_PROMPT)):
            at_s = FIRST_S + EVERY_S * (2 * number + second)
            asks.append([Ask(body(model, prompt, 2, **MORE), at_s)])
    # accepted draft tokens would bring several tokens in one step
    environ = {"LORAMILL_ENGINE_LORA_COLUMNS": str(max(256, 2 * rank)), "LORAMILL_ENGINE_SPECULATION": "false"}
    server = home.server("cold", **environ)
    with running(server, folder):
        ask(Plan(server.url, [[Ask(body(home.base_model, PROMPT, 8, **MORE))]]))
        answered = ask(Plan(server.url, [*streams, *asks], seconds=FIRST_S + EVERY_S * (2 * adapters + 1)))
    figures = {"adapter_file_bytes": file_bytes} | judge(answered, STREAMS)
    console.print("cold", figures)
    return figures


def judge(answered: Sequence[Answered], streams: int) -> dict[str, Any]:
    """Give the load's time and what it cost the streams; clients are the streams, then cold and warm in turn."""
    steady = [one for one in answered if one.client < streams]
    asked = sorted((one for one in answered if one.client >= streams), key=lambda one: one.client)
    failed = [one.error or str(one.status) for one in asked if one.status != 200 or not one.pieces_s]
    if not failed and asked and any(one.ended_s < asked[-1].ended_s for one in steady):
        failed.append("a stream ended before the last adapter was asked for")
    if failed or not steady or any(len(one.pieces_s) < 2 for one in steady):
        return {"cold_load_ms": None, "worst_gap_steps": None, "failed": failed}
    cold, warm = asked[::2], asked[1::2]
    quiet = [gap for one in steady for at, gap in _gaps(one) if not any(_meets(at, gap, other) for other in asked)]
    step_s = statistics.median(quiet)
    loads_ms = [1e3 * (first.first_s - second.first_s) for first, second in zip(cold, warm, strict=True)]
    return {
        "cold_load_ms": statistics.median(loads_ms),
        "cold_loads_ms": loads_ms,
        "first_token_cold_ms": [1e3 * one.first_s for one in cold],
        "first_token_warm_ms": [1e3 * one.first_s for one in warm],
        "step_ms": 1e3 * step_s,
        "worst_gap_steps": _worst(steady, cold) / step_s,
        "worst_gap_steps_of_warm_requests": _worst(steady, warm) / step_s,
        "worst_gap_steps_without_requests": max(quiet) / step_s,
    }


def _gaps(stream: Answered) -> list[tuple[float, float]]:
    """List when each gap between two tokens begins, and how long it is."""
    return [(at, after - at) for at, after in zip(stream.pieces_s, stream.pieces_s[1:], strict=False)]


def _meets(at_s: float, gap_s: float, asked: Answered) -> bool:
    return at_s < asked.ended_s and at_s + gap_s > asked.began_s


def _worst(streams: Sequence[Answered], asked: Sequence[Answered]) -> float:
    """Give the longest gap that meets a request's time up to its first token."""
    gaps = [
        gap
        for stream in streams
        for at, gap in _gaps(stream)
        for one in asked
        if at < one.pieces_s[0] and at + gap > one.began_s
    ]
    return max(gaps, default=0.0)
