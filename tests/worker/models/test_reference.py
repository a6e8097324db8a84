"""What transformers says of a base model is kept whole, for that model and that version, or counts as nothing."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi
from worker.models import reference as reference_file
from worker.models.loading import load_base_model
from worker.models.reference import PROBES, BlockNumbers, Reference, read_reference, write_reference
from worker.models.reference_taking import take_reference

FINGERPRINT = "f" * 64
REFERENCE = Reference(
    BlockNumbers(
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=16,
        attention_scale=0.25,
        norm_epsilon=1e-6,
        rotation_scale=1.0,
        is_tied=True,
        shapes={"model.embed_tokens.weight": (320, 64), "model.layers.0.mlp.up_proj.weight": (96, 64)},
    ),
    torch.rand(8),
    torch.randn(2, 320),
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "references" / "kept.reference"
    write_reference(path, FINGERPRINT, REFERENCE)
    return path


def test_what_was_written_is_read_to_the_bit(kept: Path) -> None:
    found = read_reference(kept, FINGERPRINT)
    assert found is not None
    assert found.numbers == REFERENCE.numbers
    assert torch.equal(found.frequencies_E, REFERENCE.frequencies_E)
    assert torch.equal(found.logits_KV, REFERENCE.logits_KV)


def test_it_is_its_owners_alone_and_nothing_is_left_beside_it(kept: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600
    assert list(kept.parent.iterdir()) == [kept]


def test_nothing_is_known_where_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_reference(tmp_path / "absent", FINGERPRINT) is None
    assert caplog.records == []


def test_what_another_version_said_counts_as_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_file, "version", lambda _: "4.0")
    assert read_reference(kept, FINGERPRINT) is None


def cut_short(content: bytes) -> bytes:
    return content[:-40]


def flip_a_logit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def change_a_number(content: bytes) -> bytes:
    return content.replace(rb"\"head_dim\":16", rb"\"head_dim\":32")


def empty(_content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut_short, flip_a_logit, change_a_number, empty])
def test_a_damaged_file_counts_as_nothing_and_is_said(
    kept: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = damage(kept.read_bytes())
    assert damaged != kept.read_bytes()
    kept.write_bytes(damaged)
    assert read_reference(kept, FINGERPRINT) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "it is damaged" in caplog.text


def test_a_file_of_another_base_model_counts_as_nothing(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_reference(kept, "e" * 64) is None
    assert "for another base model" in caplog.text


def test_every_block_has_the_shapes_of_the_first() -> None:
    assert REFERENCE.numbers.all_shapes() == {
        "model.embed_tokens.weight": (320, 64),
        **{f"model.layers.{number}.mlp.up_proj.weight": (96, 64) for number in range(3)},
    }


@pytest.mark.parametrize("write", [write_tiny_phi, write_tiny_llama])
def test_the_logits_and_angles_are_those_of_transformers(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The tiny models have no more blocks than are probed."""
    folder = write(tmp_path / "base")
    reference = take_reference(folder)
    assert reference is not None
    model = load_base_model(folder, dtype="float32").model
    with torch.inference_mode():
        for probe, logits_V in zip(PROBES, reference.logits_KV, strict=True):
            torch.testing.assert_close(logits_V, model(input_ids=torch.tensor([probe])).logits[0, -1])
        positions = torch.arange(50)[None]
        cos, _ = model.get_submodule("model.rotary_emb")(torch.empty(0), positions)
    frequencies_E = reference.frequencies_E.repeat(2) * positions[0, :, None]
    torch.testing.assert_close(frequencies_E.cos() * reference.numbers.rotation_scale, cos[0])
