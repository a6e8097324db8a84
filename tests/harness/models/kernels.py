"""One folder of compiled kernels for all engines of a test run: compiling them takes seconds, and they are the same."""

import shutil
import tempfile
from atexit import register
from functools import lru_cache
from pathlib import Path

from core.settings import Settings


def share_kernels(home: Path) -> None:
    """Have engines with this home find the run's kernels in it, and put theirs there."""
    folder = Settings(home=home).kernels_folder
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(Settings(home=home_with_kernels()).kernels_folder, target_is_directory=True)


@lru_cache(maxsize=1)
def home_with_kernels() -> Path:
    """Give a home that has nothing else."""
    home = Path(tempfile.mkdtemp(prefix="loramill-kernels-"))
    Settings(home=home).kernels_folder.mkdir()
    register(shutil.rmtree, home, ignore_errors=True)
    return home
