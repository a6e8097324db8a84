"""Who may import what, where a contract of import-linter cannot say it: contracts by folder are in pyproject.toml."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEB_FRAMEWORKS = {"fastapi", "starlette", "uvicorn"}
# What receives requests. Everything else in app is called with values, and raises errors of core.errors.
RECEIVING = ("app/http/", "app/operations/", "app/main.py", "app/server.py")


def imported_roots(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_in_app_only_routes_and_what_they_share_know_the_web_framework() -> None:
    knowing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "app").rglob("*.py")
        if imported_roots(path) & WEB_FRAMEWORKS and not path.stem.endswith("routes")
    }
    assert {path for path in knowing if not path.startswith(RECEIVING)} == set()
    assert "app/http/deps.py" in knowing
