"""What the tests of the vLLM engine work on: an imported base model without weights, a store, and adapters in it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.base_models.registry import Folder
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS, AdapterOrigin, write_manifest
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from core.text.tokenizer import TextTokenizer
from tests.app.conftest import serving
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.harness.servers.fake_vllm import FakeVllm

BASE = "tiny"
FINGERPRINT = "0" * 64
CONTEXT_TOKENS = 128


@dataclass(frozen=True)
class Deployment:
    """A home folder with one base model in it, and where to put adapters of it."""

    settings: Settings
    blobs: LocalBlobStore
    base_folder: Path
    scratch: Path

    def add_adapter(self, number: int = 0, **changes: Any) -> str:
        """Store an adapter, whose weights are the number's digits, and give its digest."""
        folder = self.scratch / f"adapter-{number}"
        folder.mkdir()
        (folder / WEIGHTS).write_text(str(number))
        (folder / CONFIG).write_text('{"peft_type": "LORA"}')
        says: dict[str, Any] = {
            "base_model": BASE,
            "base_model_fingerprint": FINGERPRINT,
            "tokenizer_sha256": TextTokenizer.from_folder(self.base_folder).digest,
            "chat_template_sha256": None,
            "example_format": "prompt_completion",
            "prompt_format": None,
            "prompts": (),
            "job_id": "ftjob-test",
            "step": number,
            "trained_on": "nothing",
            "lora": LoraSpec(),
        }
        write_manifest(folder, AdapterOrigin(**(says | changes)))
        self.blobs.put_file(folder / WEIGHTS)
        self.blobs.put_file(folder / CONFIG)
        return self.blobs.put_file(folder / MANIFEST).sha256


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    settings = Settings(home=tmp_path / "home", base_models=(BASE,))
    folder = settings.base_models_folder / BASE
    write_byte_tokenizer(folder)
    imported = {
        "name": BASE,
        "fingerprint": FINGERPRINT,
        "source": Folder(path=folder).model_dump(mode="json"),
        "context_tokens": CONTEXT_TOKENS,
    }
    (folder / "loramill.json").write_text(json.dumps(imported))
    return Deployment(settings, LocalBlobStore(settings.store_folder), folder, tmp_path)


@pytest.fixture
def vllm(deployment: Deployment) -> FakeVllm:
    return FakeVllm(deployment.base_folder)


@pytest.fixture
def vllm_url(vllm: FakeVllm) -> Iterator[str]:
    with serving(vllm.app()) as url:
        yield url
