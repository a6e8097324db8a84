"""What streams feel of clients that mean harm, or send too much: the longest silence between two tokens of any stream.

``python -m benchmarks.hostile`` runs the whole product with a tiny model of random weights and SmolLM2's tokenizer.
64 clients stream from ``/generate_stream``; meanwhile, one after the other: nothing (calm), one prompt of 7 MB, one
``/tokenize`` of 7 MB, 300 sockets that say nothing, 200 uploads of a byte a second. Prints and writes, for each, the
longest silence, what went wrong, and the most memory that all of the product's processes held together.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.host.machine import result_file, write_result
from benchmarks.host.processes import ROOT
from benchmarks.serving.home import build_home
from benchmarks.serving.over_http.servers import HOST, running
from benchmarks.serving.results import stamp
from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint

SMOLLM2: Final = ROOT / "var" / "base-models" / "smollm2-135m-instruct"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")
STREAMS: Final = 64
LONG_BYTES: Final = 7_000_000
SILENT_SOCKETS: Final = 300
SLOW_UPLOADS: Final = 200
HELD_S: Final = 15.0
POLL_S: Final = 0.1
TOKENS: Final = 512  # of one stream's request; it asks again when it has them


@dataclass
class Silence:
    """What the streams felt during one scenario."""

    longest_s: float = 0.0
    tokens: int = 0
    errors: int = 0
    answers: dict[str, int] = field(default_factory=dict)  # the hostile requests', by their status
    seconds: float = 0.0
    peak_bytes: int = 0


class Streams:
    """Clients that stream without end, and how long the longest of their silences was since `begin`."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._last_s = [0.0] * STREAMS
        self._felt = Silence()

    def begin(self) -> None:
        self._felt = Silence()
        self._last_s = [time.perf_counter()] * STREAMS

    def end(self) -> Silence:
        now_s = time.perf_counter()
        self._felt.longest_s = max(self._felt.longest_s, *(now_s - last_s for last_s in self._last_s))
        return self._felt

    async def run(self, number: int) -> None:
        body = {"inputs": f"Stream {number}:", "parameters": {"max_new_tokens": TOKENS, "ignore_eos_token": True}}
        while True:
            try:
                async with self._http.stream("POST", "/generate_stream", json=body) as response:
                    if response.status_code != 200:
                        self._felt.errors += 1
                        await asyncio.sleep(1)
                    async for line in response.aiter_lines():
                        self._take(number, line)
            except httpx2.TransportError:
                self._felt.errors += 1
                await asyncio.sleep(1)

    def _take(self, number: int, line: str) -> None:
        if line.startswith(("data:{", "data: {")):
            self._felt.errors += '"error"' in line
            now_s = time.perf_counter()
            self._felt.longest_s = max(self._felt.longest_s, now_s - self._last_s[number])
            self._felt.tokens += 1
            self._last_s[number] = now_s


async def stay_calm(_http: httpx2.AsyncClient) -> list[str]:
    await asyncio.sleep(HELD_S)
    return []


async def send_long_prompt(http: httpx2.AsyncClient) -> list[str]:
    return [await _post(http, "/generate", {"inputs": "word " * (LONG_BYTES // 5)})]


async def send_long_tokenize(http: httpx2.AsyncClient) -> list[str]:
    return [await _post(http, "/tokenize", {"inputs": "word " * (LONG_BYTES // 5)})]


async def open_silent_sockets(http: httpx2.AsyncClient) -> list[str]:
    return await asyncio.gather(*(_hold(http, b"", b"") for _ in range(SILENT_SOCKETS)))


async def upload_slowly(http: httpx2.AsyncClient) -> list[str]:
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {http.base_url.netloc.decode()}\r\nContent-Length: 100000\r\n"
        'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; '
        'filename="a.jsonl"\r\n\r\n'
    )
    return await asyncio.gather(*(_hold(http, head.encode(), b" ") for _ in range(SLOW_UPLOADS)))


SCENARIOS: Final[Mapping[str, Callable[[httpx2.AsyncClient], Awaitable[list[str]]]]] = {
    "calm": stay_calm,
    "prompt": send_long_prompt,
    "tokenize": send_long_tokenize,
    "sockets": open_silent_sockets,
    "uploads": upload_slowly,
}


async def _post(http: httpx2.AsyncClient, path: str, body: Mapping[str, Any]) -> str:
    content = json.dumps(body).encode()
    try:
        async with http.stream("POST", path, content=content, headers={"content-type": "application/json"}) as answer:
            async for _ in answer.aiter_raw():
                pass
            return str(answer.status_code)
    except httpx2.TransportError as error:
        return type(error).__name__


async def _hold(http: httpx2.AsyncClient, head: bytes, each_second: bytes) -> str:
    """Keep a connection for a while; say whether the server has ended it."""
    try:
        reader, writer = await asyncio.open_connection(HOST, http.base_url.port)
    except OSError:
        return "refused"
    ends_s = time.perf_counter() + HELD_S
    try:
        writer.write(head)
        while time.perf_counter() < ends_s:
            writer.write(each_second)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    if not await reader.read(2**16):
                        return "ended"
    except OSError:
        return "ended"
    finally:
        writer.close()
    return "held"


async def measure(url: str, server: int, scenarios: list[str], limit_s: float) -> dict[str, Silence]:
    """Let the streams run, and the scenarios one after the other; ``server`` is the product's first process."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=limits) as http:
        streams = Streams(http)
        running_streams = [asyncio.create_task(streams.run(number)) for number in range(STREAMS)]
        await asyncio.sleep(HELD_S)
        felt = {}
        for name in scenarios:
            streams.begin()
            with watching(server) as memory:
                begin_s = time.perf_counter()
                answers = ["cut off"]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limit_s):
                        answers = await SCENARIOS[name](http)
                await asyncio.sleep(2)
                felt[name] = streams.end()
            felt[name].seconds = time.perf_counter() - begin_s
            felt[name].answers = {answer: answers.count(answer) for answer in sorted(set(answers))}
            felt[name].peak_bytes = memory[0]
            print(name, asdict(felt[name]), flush=True)
        for task in running_streams:
            task.cancel()
        await asyncio.gather(*running_streams, return_exceptions=True)
        return felt


@contextlib.contextmanager
def watching(server: int) -> Iterator[list[int]]:
    """Keep, as the first number, the most memory that a process and all below it held together."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_S):
            most[0] = max(most[0], _held_bytes(server))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _held_bytes(server: int) -> int:
    parents, held = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            lines = (folder / "status").read_text().splitlines()
            parents[int(folder.name)] = int(next(line for line in lines if line.startswith("PPid:")).split()[1])
            held[int(folder.name)] = 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
    total, level = 0, {server}
    while level:
        total += sum(held.get(process, 0) for process in level)
        level = {process for process, parent in parents.items() if parent in level}
    return total


def write_base(folder: Path, tokenizer: Path) -> None:
    """Write a model whose steps take milliseconds, with a published tokenizer and as long a context."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.nn.Module.to(LlamaForCausalLM(config), torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    imported = ImportedModel(
        name="tiny",
        fingerprint=compute_fingerprint(folder),
        source=Folder(path=folder.absolute()),
        context_tokens=config.max_position_embeddings,
    )
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json(), "utf-8")


def main() -> None:
    """Measure and write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--tokenizer", type=Path, default=SMOLLM2, help="folder of a published base model")
    parser.add_argument("--limit-s", type=float, default=300.0, help="after which a scenario is cut off")
    parser.add_argument("--name", default="now", help="of the run in the result file; others stay in it")
    parser.add_argument("--result", type=Path, default=result_file("hostile"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        folder = Path(scratch)
        (folder / "base").mkdir()
        write_base(folder / "base", options.tokenizer)
        server = build_home(folder / "home", folder / "base").server("product", LORAMILL_ENGINE_MAX_BATCH=str(STREAMS))
        with running(server, folder) as process:
            names = options.scenarios or list(SCENARIOS)
            felt = asyncio.run(measure(server.url, process.pid, names, options.limit_s))
    section = {"streams": STREAMS, "scenarios": {name: asdict(silence) for name, silence in felt.items()}}
    runs = json.loads(options.result.read_text("utf-8")) if options.result.exists() else {}
    write_result(options.result, runs | {options.name: stamp(section)})


if __name__ == "__main__":
    main()
