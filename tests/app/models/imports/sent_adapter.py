"""An adapter as somebody sends it: files that a test changes, packed as an archive. Made without any model library."""

import gzip
import io
import json
import math
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.testclient import TestClient

from core.serving.adapter_format import CONFIG, WEIGHTS
from tests.harness.models.tiny_shapes import TINY_LLAMA

RANK = 2
TARGETS = ("q_proj", "v_proj")
RAW = {"base_model": "tiny", "prompt_format": "raw"}
PEFT_CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 2 * RANK,
    "target_modules": list(TARGETS),
    "bias": "none",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "somewhere/else",
    "peft_version": "0.21.2",
}
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]  # dtype, shape, numbers


def tensors_of(rank: int = RANK, kind: str = "F32") -> Tensors:
    """Give the factors of the tiny Llama's target modules, all ones."""
    one = struct.pack("<f", 1.0)[4 - {"F32": 4, "BF16": 2}[kind] :]
    made: Tensors = {}
    for name, shape in TINY_LLAMA.items():
        layer = name.removesuffix(".weight")
        if layer.endswith(TARGETS):
            outputs, inputs = shape
            for part, size in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                made[f"base_model.model.{layer}.{part}.weight"] = (kind, size, one * math.prod(size))
    return made


def safetensors(tensors: Tensors) -> bytes:
    header, body = {}, b""
    for name, (kind, shape, numbers) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (len(body), len(body) + len(numbers))}
        body += numbers
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + body


def adapter(**config: Any) -> dict[str, bytes]:
    """Give a sound adapter's two files; ``config`` changes keys of its config."""
    return {CONFIG: json.dumps(PEFT_CONFIG | config).encode(), WEIGHTS: safetensors(tensors_of())}


def tar(files: Mapping[str, bytes]) -> bytes:
    return tar_of([(tarfile.TarInfo(name), content) for name, content in files.items()])


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tar(files))


def zip_of(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return written.getvalue()


@dataclass(frozen=True)
class Imported:
    """What an import was answered with."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def refusal(self) -> tuple[int, str, str | None]:
        return self.status, self.body["error"]["code"], self.body["error"]["param"]

    @property
    def message(self) -> str:
        return str(self.body["error"]["message"])


def send(client: TestClient, content: bytes, fields: Mapping[str, str] = RAW, filename: str = "adapter") -> Imported:
    return send_files(client, {filename: content}, fields)


def send_files(client: TestClient, files: Mapping[str, bytes], fields: Mapping[str, str] = RAW) -> Imported:
    response = client.post(
        "/v1/models/import",
        data=dict(fields),
        files=[("file", (name, content)) for name, content in files.items()],
    )
    return Imported(response.status_code, response.json())
