"""The peers' servers and PEFT's batches over a tiny model, against PEFT alone."""

import asyncio
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from benchmarks.correctness.contestants import PeftBatch
from benchmarks.correctness.mixes import MixRow
from benchmarks.correctness.oracle import PeftOracle
from benchmarks.peers.commands import write_endless_base
from benchmarks.peers.peft_server import PeftService, create_app
from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.adapters import write_adapters
from benchmarks.serving.home import build_home
from core.store import adapters
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from core.text.tokenizer import TextTokenizer
from tests.harness.models.tiny_models import write_tiny_llama
from worker.jobs.blob_transfer import fetch_adapter

SPECS = [
    AdapterSpec("m0", 4, seed=1, dtype="float32", strength=0.8),
    AdapterSpec("m1", 8, seed=2, dtype="float32", strength=0.8, ranks={"q_proj": 2}, alphas={"up_proj": 5.0}),
]
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base-models") / "tiny-llama")


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_adapters(base, tmp_path_factory.mktemp("adapters"), SPECS)


@pytest.mark.parametrize("kind", ["batch", "lock"])
def test_a_peft_server_answers_with_each_requests_adapter(kind: str, base: Path, folders: list[Path]) -> None:
    service = PeftService(base, {"m0": folders[0], "m1": folders[1]}, torch.float32)
    oracle = PeftOracle(base, dict(enumerate(folders)), vocabulary=320)
    tokenizer = TextTokenizer.from_folder(base)
    expected = oracle.answers([None, 0, 1], [tokenizer.encode(PROMPT)], 6)
    assert len({one.ids for one in expected.values()}) == 3
    with TestClient(create_app(service, kind)) as client:
        for model, number in (("m1", 1), ("base", None), ("m0", 0)):
            body = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "stream": True}
            answer = client.post("/v1/completions", json=body).json()
            assert answer["usage"]["completion_tokens"] == 6
            known = [token_id for token_id in expected[number, 0].ids if token_id < tokenizer.vocab_size]
            assert answer["choices"][0]["text"] == tokenizer.decode(known, skip_special=False)


def test_pefts_mixed_batch_gives_each_row_what_its_adapter_gives_alone(base: Path, folders: list[Path]) -> None:
    prompts = [[1, 2, 3, 4, 5], [9, 8]]
    numbered = dict(enumerate(folders))
    expected = PeftOracle(base, numbered, vocabulary=259).answers([None, 0, 1], prompts, 4)
    mix = (MixRow(0, 0, 4), MixRow(None, 1, 3), MixRow(1, 1, 4))
    found = asyncio.run(PeftBatch(base, numbered, prompts, vocabulary=259).answer(mix))
    assert found == [list(expected[row.adapter, row.prompt].ids[: row.max_tokens]) for row in mix]


def test_a_published_adapter_has_a_name_and_its_files_in_the_store(base: Path, tmp_path: Path) -> None:
    home = build_home(tmp_path / "home", base)
    names = home.publish(SPECS)
    database = Database(home.settings.database)
    with database.read() as session:
        found = {own: adapters.find_served(session, name) for own, name in names.items()}
    database.dispose()
    assert found.keys() == {"m0", "m1"}
    for own, served in found.items():
        assert served is not None
        assert served.base_model == "tiny-llama"
        fetch_adapter(LocalBlobStore(home.settings.store_folder), served.adapter_sha256, tmp_path / own)
        assert (tmp_path / own / "adapter_config.json").exists()


def test_an_endless_base_has_no_end_token_and_the_same_weights(base: Path, tmp_path: Path) -> None:
    endless = write_endless_base(base, tmp_path / "endless")
    assert TextTokenizer.from_folder(base).end_ids
    assert '"eos_token_id": null' in (endless / "config.json").read_text()
    assert '"eos_token_id": -1' in (endless / "generation_config.json").read_text()
    assert (endless / "model.safetensors").resolve() == (base / "model.safetensors").resolve()
