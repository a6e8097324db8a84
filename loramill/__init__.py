"""Loramill in your own process: look at labels, train and generate without a server, a store or an event loop.

    from loramill import LLM, Renderer

The service itself is started by the `loramill` command. Importing this package loads nothing of it; each name below
loads what it needs when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from loramill._packages import make_importable

if TYPE_CHECKING:
    from core.text.rendering import Renderer
    from loramill.llm import LLM

__all__ = ["LLM", "Renderer"]

_MODULES: Final = {"LLM": "loramill.llm", "Renderer": "core.text.rendering"}

make_importable("core", "worker")


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'loramill' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
