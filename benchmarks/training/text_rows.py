"""Rows from a file of prompts and completions, rendered as a job with w = 0 renders them."""

from itertools import islice
from pathlib import Path

from benchmarks.training.rows import Rows, TokenRow
from core.text.files.jsonl import JSONL
from core.text.files.read import read_examples
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer


def read_rows(folder: Path, training: int, held_out: int, tokenizer_folder: Path) -> Rows:
    """Take lines that are spread evenly over ``train.jsonl`` and ``valid.jsonl``: neighbours there are much alike."""
    renderer = Renderer(TextTokenizer.from_folder(tokenizer_folder))
    return Rows(
        _read(folder / "train.jsonl", training, renderer),
        _read(folder / "valid.jsonl", held_out, renderer),
    )


def _read(path: Path, count: int, renderer: Renderer) -> tuple[TokenRow, ...]:
    examples = list(read_examples(path, JSONL))
    rows = []
    for example in islice(examples[:: max(1, len(examples) // count)], count):
        rendered = renderer.example(example)
        prompt = rendered.weights.index(1.0)
        assert all(rendered.weights[prompt:]), "a completion is trained from its first token to its end"
        rows.append(TokenRow(tuple(rendered.input_ids), prompt))
    return tuple(rows)
