"""One folder of compiled kernels for all engines of a test run: compiling them takes seconds, and they are the same.

pytest tells it to the processes that run tests side by side, and to those that they start, by their environment.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core.settings import Settings

_NAME: Final = "KERNELS_OF_TESTS"


@contextmanager
def kept_for_the_run() -> Iterator[None]:
    """Keep the folder until the end, unless a process that started this one does."""
    if _NAME in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="loramill-kernels-", ignore_cleanup_errors=True) as home:
        Settings(home=Path(home)).kernels_folder.mkdir()
        os.environ[_NAME] = home
        yield
        del os.environ[_NAME]


def share_kernels(home: Path) -> None:
    """Have engines with this home find the run's kernels in it, and put theirs there."""
    folder = Settings(home=home).kernels_folder
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(Settings(home=home_with_kernels()).kernels_folder, target_is_directory=True)


def home_with_kernels() -> Path:
    """Give a home that has nothing else."""
    return Path(os.environ[_NAME])
