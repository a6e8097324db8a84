"""Adapters' folders for a vLLM server."""

import stat
from pathlib import Path

import pytest

from app.engines.vllm.adapters import AdapterFiles, read_base
from core.errors import AdapterInvalid
from core.serving.adapter_format import CONFIG, WEIGHTS, digest_file
from core.store.blobs import LocalBlobStore
from tests.app.engines.conftest import Deployment


@pytest.fixture
def files(deployment: Deployment) -> AdapterFiles:
    return AdapterFiles(deployment.blobs, deployment.settings.vllm_adapters_folder, read_base(deployment.base_folder))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def blob_of(deployment: Deployment, digest: str) -> Path:
    return next(path for path in deployment.settings.store_folder.rglob(digest))


def test_a_folder_holds_weights_and_config_that_nobody_may_change(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter(5)
    folder = files.place(digest)
    assert folder == deployment.settings.vllm_adapters_folder / digest
    assert names_in(folder) == [CONFIG, WEIGHTS]
    assert (folder / WEIGHTS).read_text() == "5"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / WEIGHTS)] == [0o500, 0o400]
    assert names_in(folder.parent) == [digest]  # nothing of the making is left
    assert files.place(digest) == folder


def test_the_config_is_the_trainers_own_bytes(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()
    assert digest_file(files.place(digest) / CONFIG) == digest_file(deployment.scratch / "adapter-0" / CONFIG)


def test_of_two_that_make_a_folder_the_first_is_kept(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()

    class Overtaken(LocalBlobStore):
        """While its first file is fetched, another process places the same adapter."""

        def fetch(self, sha256: str, target: Path) -> None:
            files.place(digest)
            super().fetch(sha256, target)

    blobs = Overtaken(deployment.settings.store_folder)
    slow = AdapterFiles(blobs, deployment.settings.vllm_adapters_folder, read_base(deployment.base_folder))
    folder = slow.place(digest)
    assert names_in(folder.parent) == [digest]
    assert names_in(folder) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_damaged_bytes_are_not_placed(deployment: Deployment, files: AdapterFiles, name: str) -> None:
    digest = deployment.add_adapter()
    blob = blob_of(deployment, digest_file(deployment.scratch / "adapter-0" / name).sha256)
    blob.chmod(0o600)
    blob.write_text("other")
    with pytest.raises(AdapterInvalid, match=f"{name} is damaged"):
        files.place(digest)
    assert names_in(deployment.settings.vllm_adapters_folder) == []


def test_missing_bytes_are_named(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()
    deployment.blobs.delete(digest_file(deployment.scratch / "adapter-0" / WEIGHTS).sha256)
    with pytest.raises(AdapterInvalid, match=f"{WEIGHTS} is not stored"):
        files.place(digest)


def test_a_folder_that_was_changed_is_refused(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()
    path = files.place(digest) / WEIGHTS
    path.chmod(0o600)
    path.write_text("other")
    with pytest.raises(AdapterInvalid, match="does not have the bytes"):
        files.place(digest)


def test_a_damaged_manifest_is_refused(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()
    blob = blob_of(deployment, digest)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes().replace(b'"step":0', b'"step":1'))
    with pytest.raises(AdapterInvalid, match=r"manifest\.json is damaged"):
        files.renderer(digest)


def test_a_folder_that_is_removed_is_gone_and_can_be_made_again(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter()
    folder = files.place(digest)
    files.remove(digest)
    assert names_in(folder.parent) == []
    files.remove(digest)
    assert files.place(digest) == folder


def test_ranks_by_patterns_are_refused_as_vllm_has_one_for_all(deployment: Deployment, files: AdapterFiles) -> None:
    digest = deployment.add_adapter(lora=None)
    with pytest.raises(AdapterInvalid, match="by patterns"):
        files.place(digest)
