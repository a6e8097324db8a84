"""docs/structures.md names every source file, and no file that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = ("app", "core", "worker", "migrations", "examples", "benchmarks")


def test_the_page_names_every_module_and_nothing_else() -> None:
    page = (ROOT / "docs" / "structures.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([^`]+\.py)` \|", page, flags=re.MULTILINE))
    there = {
        str(path.relative_to(ROOT))
        for folder in DOCUMENTED
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {name for name in named if not name.startswith("tests/")} == there
