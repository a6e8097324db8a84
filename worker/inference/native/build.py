"""Builds the kernels with the C++ compiler of this machine, once for each source, compiler and CPU, and loads them.

What the kernels compute is known to ``kernels``, whether they compute it right to ``check``; without a compiler the
engine uses torch's own operations.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from worker.inference.native.check import find_difference
from worker.inference.native.kernels import Kernels

logger = logging.getLogger(__name__)

SOURCES: Final = Path(__file__).parent / "cpp"  # kernels.cpp and the .hpp files that it includes
COMPILERS: Final = ("g++", "clang++", "c++")
FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fPIC")
BUILD_LIMIT_S: Final = 120.0  # it takes seconds; a compiler that waits for something must not keep the engine


class _NotBuilt(Exception):
    """Why there are no kernels."""


def load(folder: Path) -> Kernels | None:
    """Give this machine's kernels, built into ``folder`` unless they are there; None, and a line in the log, if not.

    Several processes may do so at once. A library in ``folder`` is run as code: nobody else may write there.
    """
    try:
        library = _find_or_build(folder)
        kernels = Kernels(ctypes.CDLL(str(library)), library.stem)
    except (_NotBuilt, OSError) as reason:
        logger.warning("Native kernels are not used, decoding is slower: %s", reason)
        return None
    difference = find_difference(kernels)
    if difference is not None:
        logger.warning("Native kernels are not used, decoding is slower: %s differs from torch", difference)
        return None
    return kernels


def _find_or_build(folder: Path) -> Path:
    compiler, openmp = _find_compiler(), _find_openmp()
    key = hashlib.sha256()
    sources = [path.read_text() for path in sorted(SOURCES.glob("*.[ch]pp"))]
    for part in (*sources, *compiler, *FLAGS, openmp, _cpu_flags()):
        key.update(part.encode() + b"\0")
    library = folder / f"kernels-{key.hexdigest()}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
            built, compiled = Path(scratch, "kernels.so"), str(Path(scratch, "kernels.o"))
            _run([*compiler, *FLAGS, "-fopenmp", "-c", str(SOURCES / "kernels.cpp"), "-o", compiled])
            # Linked without -fopenmp: the compiler's own runtime would bring a second pool of threads.
            _run([*compiler, "-shared", compiled, openmp, "-o", str(built)])
            built.replace(library)
    return library


def _find_compiler() -> list[str]:
    """Give the command of ``CXX``, which may have arguments, or the first compiler on the PATH."""
    command = os.environ.get("CXX", "").split()
    for name in command[:1] or COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return [path, *command[1:]]
    raise _NotBuilt(f"no C++ compiler ({' '.join(command) or ', '.join(COMPILERS)}) is on the PATH")


def _find_openmp() -> str:
    """Give the OpenMP runtime that torch has loaded into this process, so that the kernels run on its threads."""
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libomp", "libiomp5")):
            return path
    raise _NotBuilt("torch has loaded no OpenMP runtime that is known here")


def _cpu_flags() -> str:
    """Give what ``-march=native`` depends on: a folder may be shared by machines, or outlive one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as expired:
        raise _NotBuilt(f"{command[0]} took more than {BUILD_LIMIT_S:.0f} s") from expired
    if done.returncode != 0:
        first = next(iter(done.stderr.splitlines()), "it said nothing")
        raise _NotBuilt(f"{command[0]} failed with {done.returncode}: {first}")
