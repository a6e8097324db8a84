"""Gives memory back that a process holds and does not use: what was freed, and code that only its start ran.

Linux with glibc only; elsewhere nothing happens.
"""

import ctypes
import mmap
import sys
from typing import Any, Final

_LOADED, _WRITABLE = 1, 2  # PT_LOAD and PF_W of elf.h
_POINTER, _WORD = ctypes.c_void_p, ctypes.c_size_t


class _Segment(ctypes.Structure):
    """As Elf64_Phdr in elf.h."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", _WORD),
        ("address", _WORD),
        ("physical_address", _WORD),
        ("file_bytes", _WORD),
        ("memory_bytes", _WORD),
        ("alignment", _WORD),
    )


class _Library(ctypes.Structure):
    """As the beginning of dl_phdr_info in link.h."""

    _fields_ = (
        ("base", _WORD),
        ("name", ctypes.c_char_p),
        ("segments", ctypes.POINTER(_Segment)),
        ("count", ctypes.c_uint16),
    )


_EACH_LIBRARY: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Library), _WORD, _POINTER)


def release_unused_memory() -> None:
    """Give back what malloc holds free, and the pages of code and constants of the libraries.

    The kernel keeps the latter as pages of files, and gives back at once what is run again.
    """
    if sys.platform != "linux" or ctypes.sizeof(_POINTER) != 8:
        return
    # keeps the interpreter's lock: another thread must not wait for it while this one holds the loader's
    libc: Any = ctypes.PyDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.madvise.argtypes = (_POINTER, _WORD, ctypes.c_int)

    def release(library: Any, _size: int, _data: int | None) -> int:
        for begin, end in _unwritten(library.contents):
            libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)
        return 0

    libc.dl_iterate_phdr(_EACH_LIBRARY(release), None)
    ctypes.CDLL(None).malloc_trim(0)


def _unwritten(library: _Library) -> list[tuple[int, int]]:
    """Give begin and end of the whole pages that nobody can have written to: those are still as in the file."""
    whole = []
    for segment in library.segments[: library.count]:
        if segment.type == _LOADED and not segment.flags & _WRITABLE:
            begin = library.base + segment.address
            end = begin + segment.memory_bytes
            whole.append((begin + -begin % mmap.PAGESIZE, end - end % mmap.PAGESIZE))
    return [(begin, end) for begin, end in whole if begin < end]
