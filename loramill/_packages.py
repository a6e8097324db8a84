"""Makes the service's packages importable: ``app``, ``core``, ``migrations``, ``worker``, those that are asked for.

Their bare names belong to nobody, so that a wheel keeps them out of site-packages: it carries them inside this
package, in the folder ``_service``. A checkout has them beside this package. Knows nothing of what they do.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

_OWN: Final = Path(__file__).resolve().parent
FOLDER: Final = _OWN / "_service" if (_OWN / "_service").is_dir() else _OWN.parent


class _Finder(MetaPathFinder):
    """Finds packages of these names in our folder, whatever ``sys.path`` holds."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`; ``path`` is None for what stands at the top."""
        if path is not None or fullname not in self.names:
            return None
        return PathFinder.find_spec(fullname, [str(FOLDER)], target)


_finder = _Finder()


def make_importable(*names: str) -> None:
    """Let ``import core`` and the like mean ours from now on, in this process.

    Raises:
        ImportError: this process has imported another package of such a name; both cannot be had in one process.
    """
    for name in names:
        other = sys.modules.get(name)
        if other is not None and not _is_ours(other, name):
            raise ImportError(
                f"loramill has a package named {name!r}, but this process has imported another one, "
                f"from {_place(other)}; use loramill in a process of its own, or give the other one another name",
                name=name,
            )
    _finder.names.update(names)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def environment_of_children(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment in which ``python -m worker`` and the like run ours.

    PYTHONSAFEPATH: a folder named app or worker where a command is started must not be taken for ours.
    """
    path = os.pathsep.join(filter(None, (str(FOLDER), environ.get("PYTHONPATH"))))
    return {**environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _is_ours(module: ModuleType, name: str) -> bool:
    return module.__file__ is not None and Path(module.__file__).resolve().parent == FOLDER / name


def _place(module: ModuleType) -> str:
    return module.__file__ or "a folder without __init__.py"
