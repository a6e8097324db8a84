"""Archives whose bytes were changed at random: read as they are, or refused, and never anything else."""

import io
import random
from typing import BinaryIO

import pytest

from app.models.imports.archive import list_files, refusing_malformed
from core.errors import ImportRefused
from tests.app.models.imports.sent_adapter import adapter, tar, tar_gz, zip_of

LIMIT_BYTES = 2**20
ARCHIVES = {
    "tar": tar(adapter()),
    "tar.gz": tar_gz(adapter()),
    "zip": zip_of(adapter()),
    "stored": zip_of(adapter(), 0),
}


def read_all(content: bytes) -> dict[str, bytes]:
    scratch: list[BinaryIO] = []

    def make() -> BinaryIO:
        scratch.append(io.BytesIO())
        return scratch[-1]

    read = {}
    for file in list_files(io.BytesIO(content), make, LIMIT_BYTES):
        with refusing_malformed(), file.open() as opened:
            read[file.name] = opened.read(file.bytes + 1)
        assert len(read[file.name]) <= file.bytes <= LIMIT_BYTES
    return read


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_a_sound_one_is_read(content: bytes) -> None:
    assert read_all(content) == adapter()


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_a_changed_one_is_read_or_refused(content: bytes) -> None:
    chance = random.Random(15)
    refusals = []
    for _ in range(1500):
        changed = bytearray(content)
        for _ in range(chance.choice([1, 1, 3, 30])):
            changed[chance.randrange(len(changed))] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        try:
            read_all(bytes(changed[: chance.choice([len(changed), chance.randrange(len(changed))])]))
        except ImportRefused as refusal:
            refusals.append(str(refusal))
    assert len(refusals) > 300
    assert max(map(len, refusals)) < 1000
