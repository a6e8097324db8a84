"""What a machine refuses is told from what a job does wrong."""

import errno

import pytest

from core.errors import AdapterInvalid, BlobNotFound, HostUnfit, StorageFull
from worker.trainer_process.host_faults import find_host_fault, host_faults


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (StorageFull(), "no space is left to fill the folder"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "no space is left to fill the folder"),
        (OSError(errno.EFBIG, "File too large"), "no space is left to fill the folder"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), "it cannot fill the folder: No such file"),
        (BlobNotFound("d" * 64), "content dddddddddddd is not in the store, so it cannot fill the folder"),
    ],
)
def test_whatever_a_worker_cannot_have_is_its_hosts_fault_and_tells_no_path(refused: Exception, told: str) -> None:
    with pytest.raises(HostUnfit) as caught, host_faults("fill the folder"):
        raise refused
    assert str(caught.value) == told


def test_an_invalid_adapter_is_not(tmp_path: object) -> None:
    with pytest.raises(AdapterInvalid), host_faults("fill the folder"):
        raise AdapterInvalid("", "it is malformed")


def test_a_trainer_finds_a_full_disk_behind_other_errors() -> None:
    behind = RuntimeError("cannot save")
    behind.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    serializing = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (behind, serializing):
        assert str(find_host_fault(error, "go on")) == "no space is left to go on"
    assert str(find_host_fault(OSError(errno.EIO, "Input/output error"), "go on")) == "it cannot go on: EIO"


def test_a_mistake_of_a_trainer_is_not_its_hosts_fault() -> None:
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), ValueError("os error 28"), RuntimeError("x")):
        assert find_host_fault(error, "go on") is None
