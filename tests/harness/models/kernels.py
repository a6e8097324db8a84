"""One folder of compiled kernels for all engines of a test run: compiling them takes seconds, and they are the same.

The first process that asks makes it, and its end removes it. Those that it starts find it by their environment, as
pytest's do that run tests side by side. And compilers of a few lines of shell, for tests of compiling itself.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from core.settings import Settings

_NAME: Final = "KERNELS_OF_TESTS"


def share_kernels(home: Path) -> None:
    """Have engines with this home find the run's kernels in it, and put theirs there."""
    folder = Settings(home=home).kernels_folder
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(Settings(home=home_with_kernels()).kernels_folder, target_is_directory=True)


def home_with_kernels() -> Path:
    """Give a home that has nothing else."""
    if _NAME not in os.environ:
        home = Path(tempfile.mkdtemp(prefix="loramill-kernels-"))
        Settings(home=home).kernels_folder.mkdir()
        atexit.register(_remove, home, os.getpid())
        os.environ[_NAME] = str(home)
    return Path(os.environ[_NAME])


def write_copying_compiler(path: Path, library: Path) -> Path:
    """Write a compiler whose every library is a copy of this one."""
    return write_compiler(path, f'case "$output" in *.so) cp "{library}" "$output" ;; *) touch "$output" ;; esac')


def write_compiler(path: Path, *lines: str) -> Path:
    """Write a compiler of these lines of shell, in which ``$output`` is the file that it is to make."""
    path.write_text("\n".join(("#!/bin/sh", "for output; do :; done", *lines, "")))
    path.chmod(0o700)
    return path


def _remove(home: Path, maker: int) -> None:
    if os.getpid() == maker:  # and not a copy of it that was forked
        shutil.rmtree(home, ignore_errors=True)
