"""What trials decided is found again under the same key, and what cannot be trusted is left out of account."""

import json
import logging
from pathlib import Path

import pytest

from worker.inference.tuning.memory import LONGEST_BYTES, TuningMemory

KEY = {"machine": "two cores", "base model": "0" * 64}
DECISIONS = {"step budget": {"prefill_tokens": 32}, "rows": 4}


@pytest.fixture
def written(tmp_path: Path) -> TuningMemory:
    memory = TuningMemory(tmp_path / "tuning", KEY)
    memory.write(DECISIONS)
    return memory


def test_what_was_decided_is_found_again_under_the_same_key(written: TuningMemory) -> None:
    assert TuningMemory(written.path.parent, dict(reversed(KEY.items()))).read() == DECISIONS


@pytest.mark.parametrize("changed", [{"machine": "four cores"}, {"dtype": "float32"}])
def test_another_key_finds_nothing_and_takes_nothing_away(written: TuningMemory, changed: dict[str, str]) -> None:
    other = TuningMemory(written.path.parent, KEY | changed)
    assert other.read() == {}
    other.write({"rows": 1})
    assert written.read() == DECISIONS


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(written: TuningMemory) -> None:
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]
    assert written.path.stat().st_mode & 0o777 == 0o600


def _spoil(path: Path, how: str) -> None:
    content = json.loads(path.read_text())
    match how:
        case "cut off":
            path.write_bytes(path.read_bytes()[:20])
        case "no text":
            path.write_bytes(b"\xff\x00")
        case "empty":
            path.write_bytes(b"")
        case "of another format":
            path.write_text(json.dumps(content | {"format": 2}))
        case "for another key":
            path.write_text(json.dumps(content | {"key": {"machine": "another"}}))
        case "too long":
            path.write_text(json.dumps(content) + " " * LONGEST_BYTES)
        case "writable by others":
            path.chmod(0o666)
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "no text",
        "empty",
        "of another format",
        "for another key",
        "too long",
        "writable by others",
        "a folder",
    ],
)
def test_a_file_that_is_damaged_or_not_ours_is_not_read_and_the_log_says_so(
    written: TuningMemory, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    _spoil(written.path, how)
    with caplog.at_level(logging.WARNING):
        assert written.read() == {}
    [message] = caplog.messages
    assert str(written.path) in message


def test_a_damaged_file_is_written_anew(written: TuningMemory) -> None:
    written.path.write_bytes(b"{")
    written.write({"rows": 8})
    assert written.read() == {"rows": 8}


def test_nothing_remembered_is_nothing_to_complain_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert TuningMemory(tmp_path / "tuning", KEY).read() == {}
    assert caplog.messages == []


def test_where_nothing_can_be_written_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tuning").write_text("a file where the folder should be")
    TuningMemory(tmp_path / "tuning", KEY).write(DECISIONS)
    [message] = caplog.messages
    assert str(tmp_path / "tuning") in message
    assert [path.name for path in tmp_path.iterdir()] == ["tuning"]
