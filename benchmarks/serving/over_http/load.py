"""The load section: many adapters in a small cache, one heavy caller among light ones, three times too many requests.

All through the public API of the whole product, on SmolLM2.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.home import ServedHome, build_home
from benchmarks.serving.over_http.client import Answered, Ask, Plan, ask
from benchmarks.serving.over_http.requests import OURS_MORE, body, deal, jain, summarise
from benchmarks.serving.over_http.servers import running
from benchmarks.serving.prompts import cut_texts

ADAPTERS, CACHED = 512, 32
CACHE_RANK, CACHE_TARGETS = 8, ("q_proj", "v_proj")
CLIENTS, REQUESTS, PROMPT_TOKENS, NEW_TOKENS = 8, 30, 50, 16
HEAVY, LIGHT, LIGHT_CALLERS = 24, 2, 7  # requests under way of the heavy caller, and of each light one
FAIRNESS_S, OVERLOAD_S, OVERLOAD = 30.0, 30.0, 3.0
FEW_WAITING: Final = "16"


def run(console: Console, base: Path, folder: Path, *, adapters: int = ADAPTERS, scale: float = 1.0) -> dict[str, Any]:
    """Measure all three; ``scale`` shortens them."""
    home = build_home(folder / "home", base)
    console.print(f"load: writing {adapters} adapters")
    specs = [AdapterSpec(f"z{n}", CACHE_RANK, seed=n, targets=CACHE_TARGETS) for n in range(adapters)]
    models = list(home.publish(specs).values())
    texts = cut_texts(base, max(8, int(CLIENTS * REQUESTS * scale)), PROMPT_TOKENS)
    figures = {
        "zipf": measure_zipf(home, models, texts, folder),
        "fairness": measure_fairness(home, texts, folder, FAIRNESS_S * scale),
        "overload": measure_overload(home, texts, folder, OVERLOAD_S * scale),
    }
    for name, one in figures.items():
        console.print(name, one)
    return figures


def zipf(models: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Draw models, the n-th of them 1/n as often as the first."""
    weights = [1 / rank for rank in range(1, len(models) + 1)]
    return random.Random(seed).choices(models, weights, k=count)


def measure_zipf(home: ServedHome, models: Sequence[str], texts: Sequence[str], logs: Path) -> dict[str, Any]:
    """Ask for adapters by Zipf's law, once with room for all of them in memory, once for a few."""
    sizes = [file.stat().st_size for file in home.adapters_folder.glob("*/adapter_model.safetensors")]
    one_bytes = max(sizes)
    drawn = zipf(models, len(texts), seed=0)
    bodies = [body(model, text, NEW_TOKENS, **OURS_MORE) for model, text in zip(drawn, texts, strict=True)]
    figures: dict[str, Any] = {"adapters": len(models), "asked_for": len(set(drawn)), "cached": CACHED}
    for name, cached in (("all_resident", len(models) + CACHED), ("small_cache", CACHED)):
        server = home.server(f"zipf-{name}", LORAMILL_ADAPTER_CACHE_BYTES=str(one_bytes * cached))
        with running(server, logs):
            if name == "all_resident":
                ask(deal(server.url, [body(model, texts[0], 1, **OURS_MORE) for model in sorted(set(drawn))], CLIENTS))
            figures[name] = summarise(ask(deal(server.url, bodies, CLIENTS)))
    return figures


def measure_fairness(home: ServedHome, texts: Sequence[str], logs: Path, seconds: float) -> dict[str, Any]:
    """Let one caller ask for far more than the others, and all for more than there is; give Jain's index."""
    callers = ["heavy"] * HEAVY + [f"light-{n}" for n in range(LIGHT_CALLERS) for _ in range(LIGHT)]
    most = 1 + int(10 * seconds)  # requests that one connection can make, and more
    clients = [
        [
            Ask(body(home.base_model, texts[(number + n) % len(texts)], NEW_TOKENS, user=caller, **OURS_MORE))
            for n in range(most)
        ]
        for number, caller in enumerate(callers)
    ]
    server = home.server("fairness")
    with running(server, logs):
        answered = ask(Plan(server.url, clients, seconds))
    return {"seconds": seconds, "heavy_connections": HEAVY, "light_connections": LIGHT} | share_out(answered, callers)


def share_out(answered: Sequence[Answered], callers: Sequence[str]) -> dict[str, Any]:
    """Give each caller's tokens, those of cut-off answers included, and how fair that is."""
    tokens: Counter[str] = Counter(dict.fromkeys(callers, 0))
    for one in answered:
        tokens[callers[one.client]] += one.tokens
    heavy = tokens["heavy"]
    light = [count for caller, count in tokens.items() if caller != "heavy"]
    return {
        "jain": jain(list(tokens.values())),
        "heavy_tokens": heavy,
        "light_tokens": light,
        "failed": sum(one.status not in (0, 200) for one in answered),
    }


def measure_overload(home: ServedHome, texts: Sequence[str], logs: Path, seconds: float) -> dict[str, Any]:
    """Send three times the requests that can be answered; what is answered should stay as much as before."""
    # its prompts come again and again, and none is to be answered from what an earlier one left
    server = home.server("overload", LORAMILL_ENGINE_MAX_WAITING=FEW_WAITING, LORAMILL_ENGINE_PREFIX_BYTES="0")
    with running(server, logs):
        bodies = [body(home.base_model, text, NEW_TOKENS, **OURS_MORE) for text in texts]
        capacity = summarise(ask(deal(server.url, bodies, CLIENTS)))
        rate = OVERLOAD * capacity["requests_per_s"]
        drawn, at_s = random.Random(0), 0.0
        clients: list[list[Ask]] = []
        while (at_s := at_s + drawn.expovariate(rate)) < seconds:
            clients.append([Ask(bodies[len(clients) % len(bodies)], at_s)])
        answered = ask(Plan(server.url, clients, 2 * seconds))
    return {"capacity_tokens_per_s": capacity["output_tokens_per_s"], "requests_per_s": rate} | goodput(answered)


def goodput(answered: Sequence[Answered]) -> dict[str, Any]:
    """Give what was answered in full, and how the rest was refused."""
    refused = [one for one in answered if one.status in (429, 503)]
    statuses: Mapping[str, int] = Counter(str(one.status) for one in answered)
    return {
        "goodput": summarise([one for one in answered if one.status == 200]),
        "statuses": dict(statuses),
        "refused_with_retry_after": sum(one.retry_after is not None for one in refused),
        "refused_without": sum(one.retry_after is None for one in refused),
        "retry_after_s": sorted({one.retry_after for one in refused if one.retry_after is not None}),
    }
