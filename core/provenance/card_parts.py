"""What cards of models have in common: the head that hubs read, held-out scores, licences, and how Markdown is written.

Which sections a card has, and what stands in them, is ``card``'s and ``imported_card``'s matter.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from core.base_models.registry import BaseModelEntry, Hub
from core.values import Frozen

INTENDED_USE: Final = "*To be filled in by the owner of this model: what it is for, and what it must not be used for.*"
NOT_RECORDED: Final = "not recorded"
USE: Final = (
    "to be loaded by PEFT (`adapter_config.json`, `adapter_model.safetensors`) or served by Loramill, which reads "
    "`manifest.json` too."
)
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|])")


class CardScore(Frozen):
    """A model's mean by a metric; ``mean`` None: it is defined for no row. Bounds are those of a 95 % interval."""

    model: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None


class CardEvaluation(Frozen):
    """An evaluation of the model beside its base model.

    Attributes:
        text: its verdict, in words; "" where it is of other models too.
    """

    id: str
    rows: int
    text: str
    scores: tuple[CardScore, ...]


def front_matter(base: BaseModelEntry | None) -> str:
    """Write the head in YAML. ``base`` None: the registry no longer has the base model.

    A base model is named there only by its place on the hub: by another name, hubs would lead to somebody else's model.
    """
    lines = ["---", "library_name: peft", "pipeline_tag: text-generation"]
    if base is not None and isinstance(base.source, Hub):
        lines.append(f"base_model: {base.source.id}")
    if base is not None and base.license is not None:
        lines.append(f"license: {json.dumps(base.license)}")  # JSON is YAML, and some names are numbers
    return "\n".join((*lines, "tags:", "- lora", "---", ""))


def licences(name: str, base: BaseModelEntry | None) -> Iterator[str]:
    """Say what is known of licences; ``name`` is the base model's."""
    if base is None or base.license is None:
        yield f"The licence of {escaped(name)} is not known here; it binds whoever uses this adapter with it."
    else:
        yield f"{escaped(name)} is licensed under {base.license}, which binds whoever uses this adapter with it."
    yield "Of the licence of this adapter and of the data that it was trained on nothing is known here."


def base_model_row(name: str, fingerprint: str | None, base: BaseModelEntry | None) -> tuple[str, str]:
    """Give a table's row of which base model it is."""
    where = ""
    if base is not None and isinstance(base.source, Hub):
        where = f", on the hub {base.source.id} at revision {base.source.revision}"
    return "base model", f"{name}, fingerprint {fingerprint or NOT_RECORDED}{where}"


def scores(evaluation: CardEvaluation, whose_rows: str) -> Iterator[str]:
    """Say what an evaluation found. ``whose_rows`` ends the sentence about them."""
    if evaluation.text:
        yield escaped(evaluation.text)
    rows = [(one.model, one.metric, _mean(one)) for one in evaluation.scores]
    yield table(("model", "metric", "mean (95 % interval)"), rows)
    yield f"Evaluation {evaluation.id}, {evaluation.rows:,} rows {whose_rows}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table, each cell on one line."""
    lines = [head, ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Write a text so that Markdown shows it as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _mean(score: CardScore) -> str:
    if score.mean is None:
        return "–"
    interval = "" if score.low is None or score.high is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.mean:.3f}{interval}"
