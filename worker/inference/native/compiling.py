"""Compiles the kernels with the C++ compiler of this machine, once for each source, compiler and CPU.

It takes seconds, so it can be begun before torch is imported, which this module does without. What the kernels compute
is known to ``kernels``, whether a library is used is decided by ``build``.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "cpp"  # kernels.cpp and the .hpp files that it includes
COMPILERS: Final = ("g++", "clang++", "c++")
FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fPIC")
BUILD_LIMIT_S: Final = 120.0  # it takes seconds; a compiler that waits for something must not keep the engine
OPENMP: Final = ("libgomp", "libomp", "libiomp5")

_COMPILING: Final = threading.Lock()  # one thread compiles, and others find what it made


class NotBuilt(Exception):
    """Why there are no kernels."""


def compile_ahead(folder: Path) -> threading.Thread:
    """Begin to build the kernels into ``folder``; give the thread, which ends once that is over."""

    def run() -> None:
        with contextlib.suppress(NotBuilt, OSError):  # whoever wants the kernels meets it again, and says so
            find_or_compile(folder)

    thread = threading.Thread(target=run, name="compile", daemon=True)
    thread.start()
    return thread


def find_or_compile(folder: Path) -> Path:
    """Give the library for this machine, compiled into ``folder`` unless it is there; several processes may do so.

    Raises:
        NotBuilt: it cannot be compiled.
        OSError: the folder cannot be written.
    """
    with _COMPILING:
        return _find_or_compile(folder)


def _find_or_compile(folder: Path) -> Path:
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
    raise NotBuilt(f"no C++ compiler ({' '.join(command) or ', '.join(COMPILERS)}) is on the PATH")


def _find_openmp() -> str:
    """Give the OpenMP runtime that torch has loaded into this process, so that the kernels run on its threads.

    Before torch is loaded, the one that lies beside it. Were it to load another, the kernels would be built again.
    """
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(OPENMP):
            return path
    torch = importlib.util.find_spec("torch")
    libraries = Path(torch.origin).parent / "lib" if torch is not None and torch.origin is not None else None
    for name in OPENMP:
        for library in sorted(libraries.glob(f"{name}*.so*")) if libraries is not None else ():
            return str(library.resolve())
    raise NotBuilt("torch has loaded no OpenMP runtime that is known here")


def _cpu_flags() -> str:
    """Give what ``-march=native`` depends on: a folder may be shared by machines, or outlive one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as expired:
        raise NotBuilt(f"{command[0]} took more than {BUILD_LIMIT_S:.0f} s") from expired
    if done.returncode != 0:
        first = next(iter(done.stderr.splitlines()), "it said nothing")
        raise NotBuilt(f"{command[0]} failed with {done.returncode}: {first}")
