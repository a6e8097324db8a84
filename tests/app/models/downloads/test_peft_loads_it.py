"""What is downloaded is what PEFT loads, as it is."""

import tarfile
from io import BytesIO
from pathlib import Path

import torch
from peft import PeftModel
from starlette.testclient import TestClient

from tests.app.conftest import ApiHarness
from tests.core.store.references.deployment import StoreInUse
from tests.harness.models.tiny_models import write_tiny_llama
from tests.worker.inference.adapters.adapter_files import load_fp32, write_adapter

INPUT_IDS = torch.tensor([[72, 101, 108, 108, 111]])


def test_peft_loads_the_unpacked_download_of_every_kind_of_adapter(
    client: TestClient, harness: ApiHarness, tmp_path: Path
) -> None:
    base_folder = write_tiny_llama(tmp_path / "tiny-llama")
    store = StoreInUse(harness.database, harness.blobs)
    for kind in ({}, {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}):
        published, unpacked = tmp_path / f"published {kind}", tmp_path / f"unpacked {kind}"
        write_adapter(base_folder, published, **kind)
        name = store.publish(store.claimed(), published)
        response = client.get(f"/v1/models/{name}/download")
        with tarfile.open(fileobj=BytesIO(response.content)) as tar:
            tar.extractall(unpacked, filter="data")
        assert torch.equal(logits(base_folder, unpacked), logits(base_folder, published)), kind
        assert not torch.equal(logits(base_folder, unpacked), logits(base_folder, None)), kind


def logits(base_folder: Path, adapter: Path | None) -> torch.Tensor:
    model: torch.nn.Module = load_fp32(base_folder).model
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=INPUT_IDS).logits)
