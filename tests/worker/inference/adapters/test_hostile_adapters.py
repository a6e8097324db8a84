"""Hundreds of adapters that are made to harm: each is refused as an adapter, in bounded memory, and others load."""

import asyncio
import json
import pickle
import random
import resource
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import torch
from safetensors.torch import load_file, save

from core.errors import AdapterInvalid, AdapterMismatch
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS
from core.store.blobs import LocalBlobStore
from tests.worker.inference.adapters.adapter_files import fit_of, load_fp32, store_adapter, write_adapter
from tests.worker.inference.engine_harness import EngineHarness, EngineOutput, complete, make_request
from worker.inference.adapters.cache import AdapterCache
from worker.inference.adapters.verification import Fit, open_adapter
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics

SEEDS: Final = range(300)
MIB: Final = 2**20


@dataclass
class Parts:
    """A sound adapter's parts, for a hostile one to be made of."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    manifest: dict[str, Any]
    weights: bytes = b""  # where set, stored instead of the tensors
    config_bytes: bytes = b""
    manifest_bytes: bytes = b""
    lies: dict[str, Any] = field(default_factory=dict)  # about the files, in the manifest

    def store(self, blobs: LocalBlobStore) -> str:
        weights = self.weights or save(self.tensors)
        config = self.config_bytes or json.dumps(self.config).encode()
        for name, content in ((WEIGHTS, weights), (CONFIG, config)):
            sha256 = blobs.put_bytes(content).sha256
            if name in self.manifest["files"]:
                self.manifest["files"][name] = {"sha256": sha256, "bytes": len(content)} | self.lies.get(name, {})
        return blobs.put_bytes(self.manifest_bytes or json.dumps(self.manifest).encode()).sha256

    def header(self) -> dict[str, Any]:
        content = save(self.tensors)
        header: dict[str, Any] = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        header.pop("__metadata__", None)
        return header

    def set_header(self, header: Any, data: bytes | None = None) -> None:
        content = save(self.tensors)
        data = content[8 + struct.unpack("<Q", content[:8])[0] :] if data is None else data
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.weights = struct.pack("<Q", len(text)) + text + data


Attack = Callable[[Parts, random.Random], object]


def _any_key(parts: Parts, rng: random.Random) -> str:
    return rng.choice(sorted(parts.tensors))


def _garbage(rng: random.Random) -> Any:
    deep: Any = []
    for _ in range(50):
        deep = [deep]
    return rng.choice([None, -1, 2**63, 1e308, "x" * 1000, [], {}, True, deep, "\ud800", {"a": [1]}, 0.5])


def attack_pickle(parts: Parts, rng: random.Random) -> None:
    parts.weights = pickle.dumps({_any_key(parts, rng): [1.0]}, protocol=rng.randrange(6))


def attack_bin(parts: Parts, rng: random.Random) -> None:
    other = rng.choice(["adapter_model.bin", "adapter_model.pt", "../adapter_model.safetensors", "/etc/passwd", ""])
    parts.manifest["files"][other] = parts.manifest["files"].pop(rng.choice([WEIGHTS, CONFIG]))


def attack_shape(parts: Parts, rng: random.Random) -> None:
    key = _any_key(parts, rng)
    tensor = parts.tensors[key]
    changes = [tensor.T.contiguous(), tensor[:-1].clone(), tensor[None], tensor.flatten(), tensor[:0].clone()]
    parts.tensors[key] = rng.choice(changes)


def attack_value(parts: Parts, rng: random.Random) -> None:
    flat = parts.tensors[_any_key(parts, rng)].view(-1)
    flat[rng.randrange(len(flat))] = rng.choice([float("nan"), float("inf"), float("-inf")])


def attack_two_infinities(parts: Parts, rng: random.Random) -> None:
    flat = parts.tensors[_any_key(parts, rng)].view(-1)
    flat[0], flat[-1] = float("inf"), float("-inf")


def attack_key(parts: Parts, rng: random.Random) -> None:
    key = _any_key(parts, rng)
    names = ["../" * 20 + key, "extra", key.upper(), f"{key}\0", key.replace("layers.", "layers.9"), "", "é" * 999]
    parts.tensors[rng.choice(names)] = parts.tensors[key].clone()


def attack_renamed(parts: Parts, rng: random.Random) -> None:
    parts.tensors[rng.choice(["../x", "lora_A", "a" * 5000])] = parts.tensors.pop(_any_key(parts, rng))


def attack_missing(parts: Parts, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        del parts.tensors[_any_key(parts, rng)]


def attack_dtype(parts: Parts, rng: random.Random) -> None:
    key = _any_key(parts, rng)
    parts.tensors[key] = parts.tensors[key].to(rng.choice([torch.float64, torch.float16, torch.int8, torch.int64]))


def attack_header_length(parts: Parts, rng: random.Random) -> None:
    lengths = [0, 1, 2**20 + 1, 10 * 2**30, 2**63, 2**64 - 1, rng.randrange(2**64)]
    parts.weights = struct.pack("<Q", rng.choice(lengths)) + save(parts.tensors)[8:]


def attack_header_text(parts: Parts, rng: random.Random) -> None:
    header = json.dumps(parts.header()).encode()
    texts = [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b"null",
        b"",
        b'"x"',
        header[:-1],
        header[:-1] + b"," + header[1:],
        header.decode().encode("utf-16"),
        b"\xff" * 100,
        b'{"a":1e999}',
        b'{"a":' + b"9" * 10_000 + b"}",
        b" " * 900_000,
    ]
    parts.set_header(rng.choice(texts))


def attack_header_entry(parts: Parts, rng: random.Random) -> None:
    header = parts.header()
    entry = header[_any_key(parts, rng)]
    what = rng.choice(["dtype", "shape", "data_offsets", "new", "whole", "axis"])
    if what == "axis":
        entry["shape"][0] = rng.choice([-1, 0, 2**40, 2**70, 1.0, "4", True, None])
    elif what == "whole":
        header[_any_key(parts, rng)] = _garbage(rng)
    else:
        entry[what] = _garbage(rng)
    parts.set_header(header)


def attack_offsets(parts: Parts, rng: random.Random) -> None:
    header = parts.header()
    entry, other = (header[key] for key in rng.sample(sorted(header), 2))
    shift = rng.choice([-8, -4, 4, 2**20, 2**62, -(2**40)])
    ways: list[list[int]] = [
        [begin + shift for begin in entry["data_offsets"]],
        other["data_offsets"],
        entry["data_offsets"][::-1],
        [0, 2**63],
    ]
    entry["data_offsets"] = rng.choice(ways)
    # a place that is another's of the same size is an overlap, and leaves a hole
    parts.set_header(header)


def attack_truncated(parts: Parts, rng: random.Random) -> None:
    content = save(parts.tensors)
    parts.weights = content[: rng.randrange(1, len(content))]


def attack_tail(parts: Parts, rng: random.Random) -> None:
    parts.weights = save(parts.tensors) + bytes(rng.choice([1, 4, 4096]))


def attack_config(parts: Parts, rng: random.Random) -> None:
    changes: list[dict[str, Any]] = [
        {"r": rng.choice([0, -1, 257, 10**9, 10**400, 4.0, "4", None, True])},
        {"lora_alpha": rng.choice([0, -1, 1e300, 2**17, "8", None, []])},
        {"target_modules": rng.choice(["all-linear", "(a+)+$", [], ["nothing"], [1], None, ["q_proj"] * 2000])},
        {"peft_type": rng.choice(["LOHA", "lora", None, "LORA\n"])},
        {"bias": rng.choice(["all", "lora_only", "none\n", None])},
        {"use_dora": rng.choice([True, "false", 1])},
        {rng.choice(["lora_bias", "modules_to_save", "layer_replication", "eva_config", "new"]): [[0, 1]]},
        {"rank_pattern": rng.choice([{"(a+)+$": 4}, {"nothing": 4}, {"q_proj": 10**9}, [1], {"q_proj": "4"}])},
        {"alpha_pattern": rng.choice([{"(.*)*x": 4}, {"nothing": 4}, {"q_proj": 0}, {"q_proj": 1e300}, 5])},
        {"rank_pattern": {f"layers.{number}": 4 for number in range(2000)}},
        {"rank_pattern": {"q_proj": 8}},  # which the tensors do not have
        {"init_lora_weights": rng.choice(["pissa", "olora", [], {}, 2])},
        {"r": 200},
    ]
    parts.config |= rng.choice(changes)


def attack_config_text(parts: Parts, rng: random.Random) -> None:
    content = json.dumps(parts.config).encode()
    texts = [
        content[:-1] + b',"r":4}',
        content[:-1] + b',"lora_alpha":Infinity}',
        content[:-1] + b',"lora_alpha":NaN}',
        content[:-1] + b',"lora_alpha":1e999}',
        content[:-1],
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b" " * 2**17,
        b"\x80\x04]",
        content.decode().encode("utf-32"),
    ]
    parts.config_bytes = rng.choice(texts)


def attack_lies(parts: Parts, rng: random.Random) -> None:
    size = rng.choice([0, 1, 2**62, 10**30])
    lie = rng.choice([{"bytes": size}, {"sha256": f"{rng.randrange(16**64):064x}"}, {"bytes": -1}])
    parts.lies[rng.choice([WEIGHTS, CONFIG])] = lie


def attack_swapped(parts: Parts, rng: random.Random) -> None:
    parts.weights = rng.choice([json.dumps(parts.config).encode(), b"\x00" * 5000, b"GGUF" + bytes(5000)])


def attack_manifest(parts: Parts, rng: random.Random) -> None:
    key = rng.choice(["files", "base_model_fingerprint", "tokenizer_sha256", "prompts", "lora", "format", "new"])
    parts.manifest[key] = rng.choice([2, "f" * 64, "\ud800", [[]] * 10, {"a": 1}, -5])


def attack_manifest_text(parts: Parts, rng: random.Random) -> None:
    content = json.dumps(parts.manifest).encode()
    texts = [
        content[:-1] + b',"step":1}',
        content[:-1] + b',"files":{}}',
        b"[" * 100_000,
        b'{"files":' * 50_000,
        b"",
        b" " * (MIB + 1),
        content[: rng.randrange(1, len(content))],
    ]
    parts.manifest_bytes = rng.choice(texts) or b"\n"


def attack_prompts(parts: Parts, rng: random.Random) -> None:
    section, columns = "{{#a}}" * 60 + "x" + "{{/a}}" * 60, {"a": [1] * 50}
    kinds: list[tuple[str, dict[str, Any]]] = [
        (section, columns),
        ("{{a}}", {}),
        ("{{#a}}", {}),
        ("{{a}}", {"a": None}),
    ]
    template, variables = rng.choice(kinds)
    parts.manifest["prompt_format"] = {"prompt": template, "completion": "{{b}}"}
    parts.manifest["prompts"] = [{"source": {"variables": variables}, "text": "x", "ids": [1]}]


ATTACKS: Final[dict[str, Attack]] = {
    name.removeprefix("attack_"): attack for name, attack in list(globals().items()) if name.startswith("attack_")
}


@pytest.fixture(scope="module")
def fit(tiny_phi_folder: Path) -> Fit:
    return fit_of(load_fp32(tiny_phi_folder))


@pytest.fixture(scope="module")
def sound_folder(tiny_phi_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "sound"
    write_adapter(tiny_phi_folder, folder)
    return folder


def parts_of(folder: Path) -> Parts:
    return Parts(
        load_file(folder / WEIGHTS),
        json.loads((folder / CONFIG).read_text()),
        json.loads((folder / MANIFEST).read_text()),
    )


@pytest.fixture
def peak() -> Callable[[], int]:
    """Give what tells by how many bytes the process's highest memory has grown in the test."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_every_hostile_adapter_is_refused_and_a_sound_one_still_loads(
    sound_folder: Path, fit: Fit, tmp_path: Path, peak: Callable[[], int]
) -> None:
    blobs = LocalBlobStore(tmp_path / "store")
    sound = store_adapter(sound_folder, blobs)
    names = sorted(ATTACKS)
    digests = {}
    for seed in SEEDS:
        rng, parts = random.Random(seed), parts_of(sound_folder)
        ATTACKS[names[seed % len(names)]](parts, rng)
        digests[parts.store(blobs)] = f"{names[seed % len(names)]} of seed {seed}"

    async def load_all() -> None:
        cache = AdapterCache(lambda digest: open_adapter(digest, blobs, fit), 2**24, EngineMetrics())
        outcomes: dict[str, str] = {}
        reasons: list[bytes] = []
        for digest, name in digests.items():
            try:
                await cache.pin(digest)
                outcomes[name] = "loaded"
            except (AdapterInvalid, AdapterMismatch) as refusal:
                reasons.append(str(refusal).encode())  # for people, and for JSON
            except Exception as error:
                outcomes[name] = repr(error)
        assert outcomes == {}
        assert (cache.resident, cache.loading, cache.resident_bytes) == ((), 0, 0)
        assert max(map(len, reasons)) < 2000
        assert (await cache.pin(sound)).rank == 4
        await cache.close()

    asyncio.run(load_all())
    assert peak() < 200 * MIB


def test_the_engine_answers_after_each_kind_of_attack(harness: EngineHarness, sound_folder: Path) -> None:
    digests = ["../../etc/passwd", harness.blobs.put_bytes(b"no manifest").sha256]
    for name in ("value", "pickle", "truncated"):
        parts = parts_of(sound_folder)
        ATTACKS[name](parts, random.Random(0))
        digests.append(parts.store(harness.blobs))

    async def work(engine: LocalEngine) -> list[EngineOutput]:
        answers = []
        for digest in digests:
            with pytest.raises(AdapterInvalid):
                await complete(engine, make_request("x", adapter=digest, max_tokens=2))
            with pytest.raises(AdapterInvalid):
                await engine.warm(digest)
            answers.append(await complete(engine, make_request("x", max_tokens=2)))
        assert (await engine.info()).resident_adapters == ()
        return answers

    expected = harness.peft_greedy(None, b"x", 2)
    assert [answer.ids for answer in harness.run(work)] == [expected] * len(digests)


@pytest.mark.slow
def test_a_thousand_loads_and_evictions_leave_no_memory_behind(sound_folder: Path, fit: Fit, tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "store")
    digests = []
    for step in range(2):  # one more than there is room for, so that each load evicts the other
        parts = parts_of(sound_folder)
        parts.manifest["step"] = step
        digests.append(parts.store(blobs))
    size_bytes = open_adapter(digests[0], blobs, fit).bytes
    process = psutil.Process()

    async def cycle() -> int:
        cache = AdapterCache(lambda digest: open_adapter(digest, blobs, fit), size_bytes, EngineMetrics())
        warm_bytes = 0
        for number in range(1000):
            if number == 200:
                warm_bytes = process.memory_info().rss
            digest = digests[number % 2]
            await cache.pin(digest)
            cache.unpin(digest)
            assert cache.resident == (digest,)
        await cache.close()
        return int(process.memory_info().rss - warm_bytes)

    # 800 adapters kept would be 30 times as much
    assert asyncio.run(cycle()) < 4 * MIB < 800 * size_bytes / 4
