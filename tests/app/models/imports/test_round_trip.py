"""Out of one deployment and into another: engines over real weights give the same greedy answers."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.jobs.spec import LoraSpec
from core.serving.adapter_format import CONFIG, WEIGHTS
from core.store import adapters
from tests.app.conftest import BASE, LOCAL, ApiHarness
from tests.app.models.imports.sent_adapter import RAW, send, tar
from tests.core.store.references.deployment import StoreInUse
from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi
from tests.worker.inference.adapters.adapter_files import complete_adapter, write_adapter
from tests.worker.inference.engine_harness import EngineHarness, make_request

PROMPTS = (b"what is near the Crowne Plaza?", b"a", b"0123456789")
TOKENS = 12
RANK = 3
TARGETS = ("k_proj", "q_proj", "v_proj")
SHAPE = LoraSpec(rank=RANK, alpha=2 * RANK, target_modules=TARGETS)
# how an adapter is made, and what its manifest says of its shape
KINDS: dict[str, tuple[dict[str, Any], LoraSpec | None]] = {
    "plain": ({}, SHAPE),
    "dora": ({"use_dora": True}, SHAPE.model_copy(update={"use_dora": True})),
    "patterns": ({"use_rslora": True, "rank_pattern": {"q_proj": 1}}, None),
}


@pytest.fixture(params=[write_tiny_llama, write_tiny_phi], ids=["llama", "phi"])
def base_folder(request: pytest.FixtureRequest, harness: ApiHarness) -> Path:
    """Folder of a real base model, in the place of the harness' own."""
    folder = harness.settings.base_models_folder / BASE
    shutil.rmtree(folder)
    write: Callable[[Path], Path] = request.param
    return write(folder)


def greedy(base_folder: Path, harness: ApiHarness, name: str) -> list[list[int]]:
    """Give what an engine over this deployment's store answers by a model."""
    with harness.database.read() as session:
        served = adapters.find_served(session, name)
    assert served is not None
    engine = EngineHarness(base_folder, harness.settings.home)
    requests = (
        make_request(list(prompt), adapter=served.adapter_sha256, max_tokens=TOKENS, ignore_end=True)
        for prompt in PROMPTS
    )
    return [answer.ids for answer in engine.complete(*requests, engine_native=False)]


def test_a_model_answers_as_before_behind_a_download_and_an_import(
    harness: ApiHarness, base_folder: Path, tmp_path: Path
) -> None:
    with TestClient(harness.app(), base_url=LOCAL) as client:
        for kind, (how, shape) in KINDS.items():
            folder = tmp_path / kind
            write_adapter(base_folder, folder, rank=RANK, targets=TARGETS, **how)
            complete_adapter(base_folder, folder, lora=shape)
            store = StoreInUse(harness.database, harness.blobs)
            trained = store.publish(store.claimed(), folder)
            expected = greedy(base_folder, harness, trained)
            downloaded = client.get(f"/v1/models/{trained}/download").content
            by_manifest = send(client, downloaded, {"base_model": BASE})
            assert by_manifest.status == 200, by_manifest
            with tarfile.open(fileobj=io.BytesIO(downloaded)) as archive:
                files = {name: archive.extractfile(name).read() for name in (CONFIG, WEIGHTS)}  # type: ignore[union-attr]
            by_statement = send(client, tar(files), RAW)
            for answer in (by_manifest, by_statement):
                assert greedy(base_folder, harness, answer.body["id"]) == expected, kind
        assert expected != greedy(base_folder, harness, other_model(harness, base_folder, tmp_path))


def other_model(harness: ApiHarness, base_folder: Path, tmp_path: Path) -> str:
    write_adapter(base_folder, tmp_path / "other", seed=9)
    store = StoreInUse(harness.database, harness.blobs)
    return store.publish(store.claimed(), tmp_path / "other")
