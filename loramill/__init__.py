"""Loramill in your own process: look at labels, train and generate without a server, a store or an event loop.

    from loramill import LLM, Renderer, finetune

The service itself is started by the `loramill` command. Importing this package loads nothing of it; each name below
loads what it needs when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from loramill._packages import make_importable

if TYPE_CHECKING:
    from loramill.finetuning import finetune
    from loramill.llm import LLM
    from loramill.renderer import BaseModelRenderer as Renderer

__all__ = ["LLM", "Renderer", "finetune"]

# where each name is, and what it is called there
_PLACES: Final = {
    "LLM": ("loramill.llm", "LLM"),
    "Renderer": ("loramill.renderer", "BaseModelRenderer"),
    "finetune": ("loramill.finetuning", "finetune"),
}

make_importable("core", "worker")


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'loramill' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
