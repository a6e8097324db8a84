"""Texts to score: random ones in several scripts, with empty ones and long ones among them."""

import random
from collections.abc import Iterator

from hypothesis import strategies as st

from core.scoring.sample import Sample

ALPHABETS = ("abc d", "aé ñ.", "кот и пёс ", "日本語。の ", "हिन्दी है ", "سلام عليكم ", "x=(1, y[2]);\n", "🙂a \u0301b")

TEXTS = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(st.sampled_from(letters), max_size=30)) | st.text(
    max_size=20
)


def of(answer: str, reference: str, **others: object) -> Sample:
    return Sample.model_validate({"answer": answer, "reference": reference, **others})


def random_pairs(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Give answers and references, most of them alike in part, always the same ones."""
    chance = random.Random(seed)
    for number in range(count):
        letters = chance.choice(ALPHABETS)
        size = 3000 if number % 100 == 0 else chance.choice((0, 1, 3, 20, 60))
        reference = "".join(chance.choices(letters, k=size))
        answer = "".join(
            chance.choice((character, "", character + chance.choice(letters))) if chance.random() < 0.3 else character
            for character in reference
        )
        yield (answer, reference) if number % 10 else ("".join(chance.choices(letters, k=5)), reference)
