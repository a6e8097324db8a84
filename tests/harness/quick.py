"""Which test files are quick, as their imports tell: nobody keeps a list of them.

A file is quick if nothing that it imports, however far away, is a model library, and neither it nor what it
imports of the tests starts processes. Imports inside functions do not count: they are made to be avoidable.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL_LIBRARIES = frozenset({"torch", "transformers", "peft", "trl"})
PROCESSES = frozenset({"subprocess", "multiprocessing", "signal"})


def is_quick(test_file: Path) -> bool:
    """Tell whether a file's tests run without model libraries and without processes of their own."""
    name = ".".join(test_file.relative_to(ROOT).with_suffix("").parts)
    folders = name.split(".")[:-1]
    conftests = [".".join([*folders[:depth], "conftest"]) for depth in range(1, len(folders) + 1)]
    leads_to = set(_reached([name, *conftests], lambda _: True))
    starts = set(_reached([name], lambda module: module.startswith("tests.") and not module.endswith(".conftest")))
    return not leads_to & MODEL_LIBRARIES and not starts & PROCESSES


def _reached(modules: list[str], follows: Callable[[str], bool]) -> Iterator[str]:
    """Give the modules and what they import, and so on behind each that is followed."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            if follows(module):
                waiting.extend(_imports(module))


@cache
def _imports(module: str) -> frozenset[str]:
    """Packages and modules that a module of this project imports when it is imported; none if it is not of it."""
    path = ROOT.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    if file is None:
        return frozenset()
    found: set[str] = set()
    for node in _at_import(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(part for alias in node.names for part in _with_parents(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(_with_parents(node.module), (f"{node.module}.{alias.name}" for alias in node.names))
    return frozenset(found)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))
