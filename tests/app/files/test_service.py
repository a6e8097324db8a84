"""An upload as its parts arrive, which a client of the API cannot choose."""

from pathlib import Path

import pytest

from app.files.service import Received, receive
from core.settings import Settings
from core.store.blobs import LocalBlobStore
from tests.app.conftest import EXAMPLES
from tests.harness.parquet_files import parquet_of

CONTENTS: dict[str, bytes] = {
    "jsonl": EXAMPLES,
    "csv": b"a,b\n" + b"1,2\n" * 100,
    "parquet": parquet_of({"a": ["1"] * 100, "b": ["2"] * 100}),
}


def received(home: Path, filename: str, *parts: bytes) -> Received:
    with receive(LocalBlobStore(home), Settings(home=home)) as upload:
        upload.begin(filename)
        for part in parts:
            upload.write(part)
        return upload.finish()


@pytest.mark.parametrize("file_type", CONTENTS)
@pytest.mark.parametrize("part_bytes", [1, 3, 7, 10_000])
def test_where_a_file_is_cut_does_not_matter(tmp_path: Path, file_type: str, part_bytes: int) -> None:
    content = CONTENTS[file_type]
    parts = [content[at : at + part_bytes] for at in range(0, len(content), part_bytes)]
    got = received(tmp_path, f"train.{file_type}", *parts)
    assert (got.file_type.name, got.report.examples, got.report.problem_count) == (file_type, 100, 0)
    assert got.blob.bytes == len(content)


def test_a_file_shorter_than_what_tells_its_type_is_checked_too(tmp_path: Path) -> None:
    assert received(tmp_path, "x", b"{}").report.problems[0].reason.startswith("the object is empty")
    assert received(tmp_path, "x.csv", b"a\n", b"b").report.examples == 1
    assert received(tmp_path, "x.csv").report.problems[0].code == "empty_file"
