"""Source with wildcards: whether a syntax tree has its form, and the tree that it means once they are filled.

As ast-grep writes them, ``$name`` stands for one expression, identifier or statement, and ``$$$names``
for any number of arguments, elements or statements. A wildcard that stands twice means equal source in
both places. Keyword arguments may come in any order. Layout and comments do not count.
"""

import ast
import copy
import re

Captured = dict[str, list[ast.AST]]

_ONE, _MANY = "wildcard_one_", "wildcard_many_"
_NO_FORM = {"ctx", "kind", "type_comment"}  # fields that differ between places where the same source stands


def parse(text: str) -> list[ast.stmt]:
    """Read source with wildcards.

    Raises:
        SyntaxError: it would be no Python with names in place of the wildcards.
    """
    return ast.parse(re.sub(r"\$(\w+)", rf"{_ONE}\1", re.sub(r"\$\$\$(\w+)", rf"{_MANY}\1", text))).body


def fits(pattern: ast.AST, node: ast.AST, captured: Captured) -> bool:
    """Tell whether a tree has a pattern's form; what its wildcards stand for is added to ``captured``."""
    name = _wildcard(pattern, _ONE)
    if name is not None and isinstance(node, ast.expr if isinstance(pattern, ast.expr) else ast.stmt):
        return _capture(name, [node], captured)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, ast.Call) and isinstance(node, ast.Call):
        return _call_fits(pattern, node, captured)
    fields = [field for field in pattern._fields if field not in _NO_FORM]
    return all(_value_fits(getattr(pattern, field), getattr(node, field), captured) for field in fields)


def sequence_fits(patterns: list[ast.AST], nodes: list[ast.AST], captured: Captured) -> bool:
    """`fits` for arguments, elements or statements one after the other; at most one pattern is a ``$$$names``."""
    many = [at for at, pattern in enumerate(patterns) if _wildcard(pattern, _MANY) is not None]
    if not many:
        pairs = zip(patterns, nodes, strict=False)
        return len(patterns) == len(nodes) and all(_value_fits(pattern, node, captured) for pattern, node in pairs)
    [at] = many
    end = len(nodes) - (len(patterns) - at - 1)
    name = _wildcard(patterns[at], _MANY)
    return (
        name is not None
        and at <= end
        and sequence_fits(patterns[:at], nodes[:at], captured)
        and sequence_fits(patterns[at + 1 :], nodes[end:], captured)
        and _capture(name, nodes[at:end], captured)
    )


def fill(patterns: list[ast.stmt], captured: Captured) -> list[ast.stmt]:
    """Return a pattern with what its wildcards stand for.

    Raises:
        KeyError: nothing was captured for one of them.
    """
    filled = _Filling(captured).visit(ast.Module(copy.deepcopy(patterns), []))
    statements: list[ast.stmt] = filled.body
    return statements


def _wildcard(pattern: object, kind: str) -> str | None:
    """Name of the wildcard that a pattern consists of, if it is one of this kind."""
    if isinstance(pattern, ast.Expr):
        pattern = pattern.value
    text = pattern.id if isinstance(pattern, ast.Name) else pattern
    return text.removeprefix(kind) if isinstance(text, str) and text.startswith(kind) else None


def _capture(name: str, nodes: list[ast.AST], captured: Captured) -> bool:
    """Note what a wildcard stands for; false if it already stands for something else."""
    earlier = captured.setdefault(name, nodes)
    return list(map(ast.unparse, earlier)) == list(map(ast.unparse, nodes))


def _value_fits(pattern: object, value: object, captured: Captured) -> bool:
    if isinstance(pattern, ast.AST) and isinstance(value, ast.AST):
        return fits(pattern, value, captured)
    if isinstance(pattern, list) and isinstance(value, list):
        return sequence_fits(pattern, value, captured)
    name = _wildcard(pattern, _ONE)
    if name is not None and isinstance(value, str):
        return _capture(name, [ast.Name(value)], captured)
    return type(pattern) is type(value) and pattern == value


def _call_fits(pattern: ast.Call, node: ast.Call, captured: Captured) -> bool:
    """Keywords are looked up by name; those that the pattern does not name go to its ``$$$names``."""
    rest = list(node.keywords)
    for wanted in pattern.keywords:
        found = next((keyword for keyword in rest if keyword.arg == wanted.arg), None)
        if found is None or not fits(wanted, found, captured):
            return False
        rest.remove(found)
    many = any(_wildcard(argument, _MANY) is not None for argument in pattern.args)
    arguments: list[ast.AST] = [*node.args, *(rest if many else ())]
    return (
        (many or not rest)
        and fits(pattern.func, node.func, captured)
        and sequence_fits(list(pattern.args), arguments, captured)
    )


class _Filling(ast.NodeTransformer):
    def __init__(self, captured: Captured) -> None:
        self._captured = captured

    def visit_Name(self, node: ast.Name) -> ast.AST | list[ast.AST]:
        if (name := _wildcard(node, _ONE)) is not None:
            [found] = self._captured[name]
            return copy.deepcopy(found)
        name = _wildcard(node, _MANY)
        return node if name is None else copy.deepcopy(self._captured[name])

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.AST]:
        """A statement in place of a wildcard takes the place of the statement that the wildcard is, too."""
        found = self.visit(node.value)
        if isinstance(found, ast.expr):
            return ast.Expr(found)
        filled: ast.AST | list[ast.AST] = found
        return filled

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.keywords = [*(found for found in node.args if isinstance(found, ast.keyword)), *node.keywords]
        node.args = [found for found in node.args if not isinstance(found, ast.keyword)]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field, value in ast.iter_fields(node):
            name = _wildcard(value, _ONE) if isinstance(value, str) else None
            if name is not None:
                [found] = self._captured[name]
                setattr(node, field, ast.unparse(found))
        return super().generic_visit(node)
