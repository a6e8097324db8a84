import os
from pathlib import Path

import pytest

from core.process.durability import wait_for_disk


@pytest.mark.parametrize("name", ["file", "."])
def test_the_kernel_is_asked_about_that_file_or_folder_which_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    asked = []

    def note(descriptor: int) -> None:
        asked.append((descriptor, os.fstat(descriptor).st_ino))

    monkeypatch.setattr(os, "fsync", note)
    wait_for_disk(tmp_path / name)
    [(descriptor, inode)] = asked
    assert inode == (tmp_path / name).stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
