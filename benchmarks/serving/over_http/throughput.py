"""The http section: output tokens a second through HTTP, ours and the peers', 8 clients at once.

All compute in the number type that is fastest on the machine.
Rounds are interleaved; in each, one server runs while the others are ended, or stopped where a start takes minutes.
A peer that cannot be started is told of and has no ratio.
"""

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.host.number_types import NumberType, NumberTypes
from benchmarks.peers.commands import find_vllm, peft_server, transformers_serve, vllm_server, write_endless_base
from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.home import ServedHome, build_home
from benchmarks.serving.over_http.client import ask
from benchmarks.serving.over_http.requests import OURS_MORE, body, deal, medians, summarise
from benchmarks.serving.over_http.servers import Server, ServerFailed, running
from benchmarks.serving.prompts import cut_texts

CLIENTS, REQUESTS = 8, 6
PROMPT_TOKENS, NEW_TOKENS = 100, 48
ADAPTERS, RANK = 8, 16
ROUNDS: Final = 3
BASE, MIXED = "base", "mixed"


@dataclass(frozen=True)
class Contender:
    """A server that takes part.

    Attributes:
        models: for each workload the models that requests name in turn.
        requests: of each client; fewer where a server is so slow that fewer are as telling.
        every: takes part in every so-many-th round.
        is_kept: stopped between its rounds rather than ended.
    """

    name: str
    server: Server
    models: Mapping[str, Sequence[str]]
    more: Mapping[str, Any] = field(default_factory=dict)
    requests: int = REQUESTS
    every: int = 1
    is_kept: bool = False


def contenders(
    home: ServedHome, names: Mapping[str, str], folder: Path, vllm: Path | None, dtype: NumberType
) -> list[Contender]:
    """List ours and the peers.

    Args:
        names: our models' by the adapters' own.
        dtype: what peers are told to compute in; ours chooses by itself, by the same probe.
    """
    base = home.base
    endless = write_endless_base(base, folder / base.name)
    adapters = {name: home.adapters_folder / name for name in names}
    own, ours = list(adapters), {BASE: [home.base_model], MIXED: list(names.values())}
    listed = [
        Contender("ours", home.server("ours"), ours, OURS_MORE),
        Contender("transformers serve", transformers_serve(endless, dtype), {BASE: [str(endless)]}),
        Contender("PEFT, static batch", peft_server("batch", endless, adapters, dtype), {MIXED: own}, requests=3),
        Contender("PEFT, lock", peft_server("lock", endless, adapters, dtype), {MIXED: own}, requests=1, every=2),
    ]
    if vllm is not None:
        plain = vllm_server(vllm, base, {}, dtype)
        with_lora = vllm_server(vllm, base, adapters, dtype, rank=RANK)
        listed += [
            Contender("vLLM", plain, {BASE: [base.name]}, OURS_MORE, is_kept=True),
            Contender("vLLM with LoRA", with_lora, {MIXED: own}, OURS_MORE, requests=3, is_kept=True),
        ]
    return listed


def run(
    console: Console, base: Path, folder: Path, types: NumberTypes, *, vllm: Path | None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure all contenders; give every round, the medians and the ratios."""
    home = build_home(folder / "home", base)
    names = home.publish([AdapterSpec(f"a{n}", RANK, seed=n) for n in range(ADAPTERS)])
    everyone = contenders(home, names, folder / "endless", find_vllm(vllm), types.fastest)
    texts = functools.partial(cut_texts, base, tokens=PROMPT_TOKENS)
    measured, absent = take_rounds(console, everyone, texts, rounds, folder)
    summaries = {name: {load: medians(several) for load, several in loads.items()} for name, loads in measured.items()}
    _print(console, summaries)
    if find_vllm(vllm) is None:
        absent["vLLM"] = "not installed; --vllm names the Python of its environment"
    return {
        "number_types": types.as_dict(),
        "clients": CLIENTS,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "rounds": measured,
        "medians": summaries,
        "absent": absent,
        "ratios": ratios(summaries),
    }


def take_rounds(
    console: Console,
    everyone: Sequence[Contender],
    texts: Callable[..., list[str]],
    rounds: int,
    logs: Path,
) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], dict[str, str]]:
    """Give what each round found by contender and workload, and why contenders are absent."""
    measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as kept:
        held: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(rounds):
            for one in everyone:
                if one.name in absent or number % one.every:
                    continue
                try:
                    with _awake(one, held, kept, logs):
                        summaries = _take(one, texts, number)
                except ServerFailed as failure:
                    absent[one.name] = str(failure).splitlines()[0]
                    console.print(f"{one.name} does not take part: {failure}", highlight=False, markup=False)
                    continue
                for load, summary in summaries.items():
                    measured.setdefault(one.name, {}).setdefault(load, []).append(summary)
                    speed = f"{written_speed(summary)} tok/s, {summary['failed']} failed"
                    console.print(f"round {number + 1} of {rounds}, {one.name}, {load}: {speed}", highlight=False)
    return measured, absent


def ratios(summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float | None]:
    """Give how many times a peer's output tokens a second ours are; None where one of both was not measured."""

    def speed(name: str, load: str) -> float | None:
        return summaries.get(name, {}).get(load, {}).get("output_tokens_per_s")

    def ratio(load: str, *peers: str) -> float | None:
        theirs = [rate for peer in peers if (rate := speed(peer, load)) is not None]
        ours = speed("ours", load)
        return None if ours is None or not theirs else ours / max(theirs)

    return {
        "peft_mixed": ratio(MIXED, "PEFT, static batch", "PEFT, lock"),
        "vllm_mixed": ratio(MIXED, "vLLM with LoRA"),
        "transformers_serve": ratio(BASE, "transformers serve"),
        "vllm_base": ratio(BASE, "vLLM"),
    }


def _take(one: Contender, texts: Callable[..., list[str]], number: int) -> dict[str, Any]:
    """Warm a server up with each model once, then measure its workloads, each with prompts of its own."""
    summaries = {}
    for place, (load, models) in enumerate(one.models.items()):
        count = CLIENTS * one.requests
        begin = (2 * number + place) * CLIENTS * (REQUESTS + 1)
        prompts = texts(count=count + len(models), begin=begin)
        bodies = [body(models[n % len(models)], prompt, NEW_TOKENS, **one.more) for n, prompt in enumerate(prompts)]
        warming = [dict(fields) | {"max_tokens": 4} for fields in bodies[count:]]
        ask(deal(one.server.url, warming, 1))
        summaries[load] = summarise(ask(deal(one.server.url, bodies[:count], CLIENTS)))
    return summaries


@contextlib.contextmanager
def _awake(
    one: Contender, held: dict[str, subprocess.Popen[bytes]], kept: contextlib.ExitStack, logs: Path
) -> Iterator[None]:
    """Let a server run around the block, and nothing of it afterwards."""
    if not one.is_kept:
        with running(one.server, logs):
            yield
        return
    if one.name not in held:
        held[one.name] = process = kept.enter_context(running(one.server, logs))
        kept.callback(_signal_all, process.pid, signal.SIGCONT)  # a stopped process does not hear that it shall end
    process = held[one.name]
    _signal_all(process.pid, signal.SIGCONT)
    try:
        yield
    finally:
        _signal_all(process.pid, signal.SIGSTOP)


def _signal_all(pid: int, number: signal.Signals) -> None:
    """Signal a process and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _print(console: Console, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    title = f"through HTTP: {CLIENTS} clients, {PROMPT_TOKENS} tokens of prompt, {NEW_TOKENS} new; medians"
    table = Table(title=title, title_justify="left")
    table.add_column("server")
    for heading in ("models", "output tok/s", "latency p50 / p99 s", "first token p50 / p99 s", "failed"):
        table.add_column(heading, justify="right")
    for name, loads in found.items():
        for load, one in loads.items():
            times = [
                f"{one[f'{key}_p50_s']:.2f} / {one[f'{key}_p99_s']:.2f}" if f"{key}_p50_s" in one else "–"
                for key in ("latency", "first_token")
            ]
            kind = "base" if load == BASE else f"{ADAPTERS} adapters"
            table.add_row(name, kind, written_speed(one), *times, f"{one['failed']:g}")
    console.print(table)


def written_speed(summary: Mapping[str, Any]) -> str:
    """Write a summary's output tokens a second; a dash where no request was answered."""
    return f"{summary['output_tokens_per_s']:.0f}" if "output_tokens_per_s" in summary else "–"


def quick(one: Contender) -> Contender:
    """Give a contender with one request for each client, to show that everything runs."""
    return replace(one, requests=1, every=1)
