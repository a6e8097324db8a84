"""docs/serving.md has a row for each metric, with its labels and kind, and for no other."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.http.alias_answers import AliasMetrics
from app.http.metrics import RequestMetrics
from worker.inference.metrics.engine_metrics import EngineMetrics

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "serving.md").read_text("utf-8")


def documented(beginning: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Give kind and labels by a metric's name, as the table says whose head is ``beginning``."""
    rows = GUIDE.split(f"| `{beginning}` | kind | meaning |\n| --- | --- | --- |\n")[1].split("\n\n")[0].splitlines()
    found = {}
    for row in rows:
        names, kind, _ = row.strip("| ").split(" | ", 2)
        for name, labels in re.findall(r"`(\w+)(?:\{([\w, ]+)\})?`", names):
            found[name] = (kind, frozenset(labels.split(", ")) if labels else frozenset())
    return found


def exposed(registry: CollectorRegistry, beginning: str) -> dict[str, tuple[str, frozenset[str]]]:
    found = {}
    for collector in list(registry._collector_to_names):
        for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
            name = family.name.removeprefix(beginning) + ("_total" if family.type == "counter" else "")
            labels: Any = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            found[name] = (family.type, frozenset(labels))
    return found


@pytest.mark.parametrize(
    ("beginning", "registry"),
    [
        ("loramill_engine_", EngineMetrics().registry),
        ("loramill_api_", RequestMetrics().registry),
        ("loramill_alias_", AliasMetrics().registry),
    ],
)
def test_the_guide_lists_each_metric_and_no_other(beginning: str, registry: CollectorRegistry) -> None:
    metrics = exposed(registry, beginning)
    assert len(metrics) > 2
    assert documented(beginning) == metrics
