"""Decides which prompts of a file are held out: by their text alone, so everywhere alike.

A prompt's rank is a hash of its text. A tenth of the file's distinct prompts is held out, those of the smallest
hashes. Neither the rows' order, nor the length policy, nor a job's seed, nor the base model's tokenizer or chat
template matters, so jobs that differ in these are scored on the same prompts. Where rows are appended, the old prompts
that are held out grow or shrink only at the end of their old order.

Prompts that differ in case, white space or in how Unicode writes a character alone are one prompt, as a model that
learnt one of them knows the other. Digits and punctuation count: ``3 + 4`` and ``3 - 5`` are other questions, and
without them a file of sums would be a single prompt.

What a prompt's text is, ``core.text.rendering`` knows; what becomes of the examples, ``core.text.partition``.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Final

HELD_OUT_VERSION: Final = 3  # of the choice: a checkpoint of another one is not resumed
HELD_OUT_ONE_IN: Final = 10  # prompts


def draw(prompts: Iterable[str]) -> frozenset[int]:
    """Give the hashes of the prompts that are held out, before it is known which of them can be used."""
    ranked = _ranked(prompts)
    return frozenset(ranked[: count_held_out(len(ranked))])


def draw_to_choose_and_to_judge(prompts: Iterable[str]) -> tuple[frozenset[int], frozenset[int]]:
    """Give the hashes of the prompts by which an experiment chooses a checkpoint, and of those that it is judged by.

    To judge there are those that `draw` holds out, so no job on the same file has learnt from them; to choose there
    are as many again, the next in rank. At least one prompt stays to be trained on: of two prompts none is to choose.
    """
    ranked = _ranked(prompts)
    judging = count_held_out(len(ranked))
    choosing = min(judging, max(0, len(ranked) - judging - 1))
    return frozenset(ranked[judging : judging + choosing]), frozenset(ranked[:judging])


def count_held_out(prompts: int) -> int:
    """Say how many of so many distinct prompts are held out: a tenth, rounded down, at least one and never all."""
    return min(max(1, prompts // HELD_OUT_ONE_IN), max(0, prompts - 1))


def hash_of(prompt: str) -> int:
    """Give the 64 bits that a prompt is ranked by, and told from others by."""
    return int.from_bytes(hashlib.sha256(normalised(prompt).encode()).digest()[:8], "big")


def normalised(prompt: str) -> str:
    """Write a prompt so that two which a reader would call the same are equal: see the module's first lines."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold()).split())


def _ranked(prompts: Iterable[str]) -> list[int]:
    return sorted(set(map(hash_of, prompts)))
