"""Compiles kernels with the C++ compiler of this machine, once for each level of CPU, source and compiler.

It takes seconds, so it can be begun before torch is imported, which this module does without. Libraries that were
compiled beforehand, which ``python -m worker.native.compiling`` does for all levels, need no compiler. What kernels
compute is known to engine and trainer, which have their own, and so is whether a library is used.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.process.cpu_levels import Level, choose_level, list_levels
from core.settings import CpuLevel

SHARED: Final = Path(__file__).parent / "cpp"  # headers that all kernels may include
PREBUILT: Final = Path(__file__).parent / "prebuilt"
COMPILERS: Final = ("g++", "clang++", "c++")
FLAGS: Final = ("-std=c++17", "-O3", "-fPIC", "-fopenmp")
BUILD_LIMIT_S: Final = 120.0  # it takes seconds; a compiler that waits for something must not keep the engine

_COMPILING: Final = threading.Lock()  # one thread compiles, and others find what it made


@dataclass(frozen=True)
class Sources:
    """What becomes one library: each .cpp of the folder is compiled by itself, with the .hpp that it includes."""

    name: str  # which the library's file begins with
    folder: Path

    def list(self, pattern: str) -> list[Path]:
        """Give its files of a pattern, in their order."""
        return sorted(self.folder.glob(pattern))


_WORKER: Final = Path(__file__).parents[1]
ENGINE: Final = Sources("kernels", _WORKER / "inference" / "native" / "cpp")
TRAINER: Final = Sources("trainer_kernels", _WORKER / "training" / "native" / "cpp")


class NotBuilt(Exception):
    """Why there are no kernels."""


def compile_ahead(sources: Sources, folder: Path, cpu_level: CpuLevel | None = None) -> threading.Thread:
    """Begin to build the kernels of `choose_level` into ``folder``; give the thread, which ends once that is over.

    Raises:
        SettingsInvalid: this machine does not have that level.
    """
    level = choose_level(cpu_level)

    def run() -> None:
        with contextlib.suppress(NotBuilt, OSError):  # whoever wants the kernels meets it again, and says so
            find_or_compile(sources, folder, level)

    thread = threading.Thread(target=run, name="compile", daemon=True)
    thread.start()
    return thread


def find_or_compile(sources: Sources, folder: Path, level: Level) -> Path:
    """Give the library of a level: one compiled beforehand, or compiled into ``folder`` unless it is there.

    Of several processes that do so at once, one compiles, and the others wait for it.

    Raises:
        NotBuilt: it cannot be compiled.
        OSError: the folder cannot be written.
    """
    prebuilt = PREBUILT / _name(sources, level)
    if prebuilt.exists():
        return prebuilt
    with _COMPILING:
        compiler = _find_compiler()
        library = folder / _name(sources, level, *compiler)
        if not library.exists():
            with _only_process(folder):
                if not library.exists():
                    _compile(sources, library, compiler, level)
        return library


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Keep other processes from compiling into the folder; the kernel lets them when this one dies."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def compile_all(folder: Path) -> None:
    """Compile the kernels for every level of this architecture into ``folder``, as they are looked for in `PREBUILT`.

    Raises:
        NotBuilt: one cannot be compiled.
        OSError: the folder cannot be written.
    """
    for sources in (ENGINE, TRAINER):
        for level in list_levels():
            _compile(sources, folder / _name(sources, level), _find_compiler(), level)


def _name(sources: Sources, level: Level, *compiler: str) -> str:
    key = hashlib.sha256()
    files = (*sorted(SHARED.iterdir()), *sources.list("*.[ch]pp"))
    for part in (*(path.read_text() for path in files), *compiler, *FLAGS, *level.flags):
        key.update(part.encode() + b"\0")
    return f"{sources.name}-{level.name}-{key.hexdigest()}.so"


def _compile(sources: Sources, library: Path, compiler: list[str], level: Level) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as scratch:
        built = Path(scratch, "kernels.so")
        objects = {str(source): str(Path(scratch, f"{source.stem}.o")) for source in sources.list("*.cpp")}
        flags = (*FLAGS, *level.flags, "-I", str(SHARED))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda source: _run([*compiler, *flags, "-c", source, "-o", objects[source]]), objects))
        # Linked without -fopenmp: the compiler's own runtime would bring a second pool of threads.
        _run([*compiler, "-shared", *objects.values(), "-o", str(built)])
        built.replace(library)


def _find_compiler() -> list[str]:
    """Give the command of ``CXX``, which may have arguments, or the first compiler on the PATH."""
    command = os.environ.get("CXX", "").split()
    for name in command[:1] or COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return [path, *command[1:]]
    raise NotBuilt(f"no C++ compiler ({' '.join(command) or ', '.join(COMPILERS)}) is on the PATH")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as expired:
        raise NotBuilt(f"{command[0]} took more than {BUILD_LIMIT_S:.0f} s") from expired
    if done.returncode != 0:
        first = next(iter(done.stderr.splitlines()), "it said nothing")
        raise NotBuilt(f"{command[0]} failed with {done.returncode}: {first}")


def main(arguments: list[str] | None = None) -> int:
    """Compile all levels beforehand; give the exit status."""
    parser = argparse.ArgumentParser(prog="compiling", description=compile_all.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PREBUILT)
    try:
        compile_all(parser.parse_args(arguments).folder)
    except (NotBuilt, OSError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
