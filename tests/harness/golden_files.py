"""Reads ``tests/golden``: for each known way of training on the wrong tokens, examples and what must come of them.

The files are written by hand, from the raw tokenizers and from bytes. Nothing here writes them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from core.text.files.examples import Message
from core.text.render_settings import RenderSettings
from core.text.rendering import RenderedExample

FOLDER = Path(__file__).parents[1] / "golden"
IGNORE_INDEX = -100  # the label of a token that is not trained on, as PyTorch has it


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GoldenCase(_Strict):
    """One example and the tokens that it must become, each as [id, its text, weight as a target, label]."""

    case: str
    tokenizer: Literal["byte", "byte-bos", "phi-2", "smollm2"]
    example: dict[str, Any]  # the line of a training file
    job: RenderSettings = RenderSettings()
    outcome: Literal["trained", "dropped", "refused"] = "trained"
    pieces: list[str] = []  # the texts that are tokenised each by itself
    tokens: list[tuple[int, str, float, int]] = []
    fed_tokens: int = 0  # how many of them inference feeds
    request: str | dict[str, Any] | list[dict[str, str]] | None = None  # what asks the model for this example's answer
    moved: str = ""
    cut_text: str = ""

    @property
    def asked(self) -> str | dict[str, Any] | list[Message] | None:
        """The request as a renderer takes it."""
        if isinstance(self.request, list):
            return [Message(turn["role"], turn["content"]) for turn in self.request]
        return self.request


def read_golden(name: str) -> dict[str, Any]:
    """Give one file's content; ``name`` is its name without the ending."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def cases_of(name: str) -> list[GoldenCase]:
    """Give one file's examples; some files have none."""
    return [GoldenCase.model_validate(case) for case in read_golden(name).get("cases", [])]


def golden_names() -> list[str]:
    """Name all files, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def cases(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each example of the files, as its argument ``golden``."""
    found = [golden for name in names for golden in cases_of(name)]
    return pytest.mark.parametrize("golden", found, ids=[golden.case for golden in found])


def labels_of(example: RenderedExample) -> list[int]:
    """Give the classic labels: a token's own id where it is trained on."""
    return labels_from(example.input_ids, example.weights)


def labels_from(ids: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Give labels for ids and weights as a trainer has them."""
    return [token_id if weight > 0 else IGNORE_INDEX for token_id, weight in zip(ids, weights, strict=True)]
