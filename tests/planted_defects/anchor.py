"""Where in the program a defect stands, and the program with it.

A place is a module, a function or class in it, and in there a pattern that fits once: what else stands
in the function or in the file may change without the defect being lost.
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.planted_defects import pattern
from tests.planted_defects.defect import Defect

SHOWN = 3  # near candidates in a message


class AnchorLost(Exception):
    """A defect's place is gone, or it is not one place."""


@dataclass(frozen=True)
class _Place:
    """Nodes that a pattern fits: ``parent``'s field, or as many as the pattern has from ``at`` of the list there."""

    parent: ast.AST
    field: str
    at: int | None
    captured: pattern.Captured

    def put(self, nodes: list[Any], *, instead_of: int) -> None:
        if self.at is None:
            [node] = nodes
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.at : self.at + instead_of] = nodes

    @property
    def line(self) -> int | None:
        value = getattr(self.parent, self.field)
        return getattr(value if self.at is None else value[self.at], "lineno", None)


def module_path(root: Path, defect: Defect) -> Path:
    """Return the file of the module that a defect is in.

    Raises:
        AnchorLost: there is no such module under ``root``.
    """
    module, _, function = defect.in_.partition(":")
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    others = {
        ".".join(other.relative_to(root).with_suffix("").parts): other
        for other in sorted((root / module.split(".")[0]).rglob("*.py"))
    }
    same = [name for name, other in others.items() if function in _scopes(ast.parse(other.read_text("utf-8")))]
    near = [f"{name}:{function}" for name in same] or difflib.get_close_matches(module, others, SHOWN)
    raise AnchorLost(f"{defect.name}: there is no module {module}; near: {', '.join(near) or 'nothing'}")


def laid_out(source: str) -> str:
    """Return a program as `with_defect` lays it out, but without a defect."""
    return ast.unparse(ast.parse(source)) + "\n"


def with_defect(source: str, defect: Defect) -> str:
    """Return a module's source with a defect. Its comments and its layout are gone.

    Raises:
        AnchorLost: the defect's function is not there, its pattern does not fit just once in there, or what is
            to be written needs a wildcard that the pattern does not have.
    """
    tree = ast.parse(source)
    old, new = pattern.parse(defect.replace), pattern.parse(defect.by)
    place = _only_place(_scope(tree, defect), _nodes(old, new), defect)
    try:
        filled = pattern.fill(new, place.captured)
    except KeyError as error:
        raise AnchorLost(f"{defect.name}: ${error.args[0]} is in what to write, but not in what to replace") from error
    place.put(_nodes(filled, old), instead_of=len(old))
    return ast.unparse(tree) + "\n"


def _nodes(statements: list[ast.stmt], others: list[ast.stmt]) -> list[Any]:
    """Statements; or the one expression that they are, where it is replaced by another or replaces another."""
    both = [*statements, *others]
    if len(statements) == len(others) == 1 and all(isinstance(statement, ast.Expr) for statement in both):
        return [statement.value for statement in statements if isinstance(statement, ast.Expr)]
    return statements


def _scopes(tree: ast.AST, prefix: str = "") -> dict[str, ast.AST]:
    """Functions and classes by qualified name, without ``<locals>``."""
    found: dict[str, ast.AST] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[prefix + node.name] = node
            found |= _scopes(node, f"{prefix}{node.name}.")
    return found


def _scope(tree: ast.Module, defect: Defect) -> ast.AST:
    module, _, function = defect.in_.partition(":")
    if not function:
        return tree
    scopes = _scopes(tree)
    if function not in scopes:
        last = {name: name.rpartition(".")[2] for name in scopes}
        near = [name for name in scopes if last[name] == function.rpartition(".")[2]]
        near = near or difflib.get_close_matches(function, scopes, SHOWN)
        raise AnchorLost(f"{defect.name}: {module} has no {function}; near: {', '.join(near) or 'nothing'}")
    return scopes[function]


def _places(scope: ast.AST, old: list[Any]) -> Iterator[_Place]:
    for parent in ast.walk(scope):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, list):
                for at in range(len(value) - len(old) + 1):
                    captured: pattern.Captured = {}
                    if pattern.sequence_fits(old, value[at : at + len(old)], captured):
                        yield _Place(parent, field, at, captured)
            elif isinstance(value, ast.AST):
                captured = {}
                if pattern.sequence_fits(old, [value], captured):
                    yield _Place(parent, field, None, captured)


def _only_place(scope: ast.AST, old: list[Any], defect: Defect) -> _Place:
    places = list(_places(scope, old))
    if len(places) == 1:
        return places[0]
    if places:
        lines = ", ".join(str(place.line) for place in places)
        raise AnchorLost(f"{defect.name}: {defect.replace!r} fits {len(places)} times in {defect.in_}: lines {lines}")
    kind = ast.expr if isinstance(old[0], ast.expr) else ast.stmt
    written = {ast.unparse(node).splitlines()[0]: None for node in ast.walk(scope) if isinstance(node, kind)}
    near = "\n  ".join(difflib.get_close_matches(defect.replace, written, SHOWN, cutoff=0.3))
    raise AnchorLost(f"{defect.name}: {defect.replace!r} fits nothing in {defect.in_}; near:\n  {near or 'nothing'}")
