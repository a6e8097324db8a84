"""Tells what a machine refuses from what a job does wrong. Torch-free; worker and trainer both ask.

What becomes of a job whose host is at fault is ``worker.jobs.attempt``'s.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from core.errors import BlobNotFound, HostUnfit, StorageFull

# EFBIG: the process's own limit of a file's size (RLIMIT_FSIZE)
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Other errors of the operating system in a trainer may be mistakes of ours, such as a wrong path.
_MACHINE: Final = _NO_SPACE | {
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.EMFILE,
    errno.ENFILE,
}
# how Rust, and so safetensors, ends the sentence of an error of the operating system
_RUST_ERRNO: Final = re.compile(r"\(os error (\d+)\)")


@contextmanager
def host_faults(doing: str) -> Iterator[None]:
    """Make whatever the machine refuses meanwhile a fault of the host. ``doing`` follows "to" in a sentence.

    Raises:
        HostUnfit: files, store or process could not be had.
    """
    try:
        yield
    except StorageFull as error:
        raise HostUnfit(f"no space is left to {doing}") from error
    except BlobNotFound as error:
        raise HostUnfit(f"content {error.args[0][:12]} is not in the store, so it cannot {doing}") from error
    except OSError as error:
        raise HostUnfit(_sentence(doing, error.errno, error.strerror or type(error).__name__)) from error


def find_host_fault(error: BaseException, doing: str) -> HostUnfit | None:
    """Give the fault of the host that an exception comes from, if one does."""
    link: BaseException | None = error
    while link is not None:
        number = _errno_of(link)
        if number in _MACHINE:
            return HostUnfit(_sentence(doing, number, errno.errorcode[number]))
        link = link.__cause__ or link.__context__
    return None


def _errno_of(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    named = _RUST_ERRNO.search(str(error))
    return int(named[1]) if named else 0


def _sentence(doing: str, number: int | None, reason: str) -> str:
    return f"no space is left to {doing}" if number in _NO_SPACE else f"it cannot {doing}: {reason}"
