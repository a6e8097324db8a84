"""The examples that all trainers of a benchmark train on: token ids, and where the prompt ends. No text, no tensors.

Generated rows are as long as GSM8K's are and hold something to learn; real ones come from
``benchmarks.training.text_rows``.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

IGNORE_INDEX = -100
CLOSING_ID = 256  # ends every generated row; the ids below it are bytes, and no row has them

# GSM8K under Phi-2's tokenizer: 156 tokens at the mean, 62 % of them the answer's, both log-normally spread, and
# long questions with long answers.
PROMPT_TOKENS, PROMPT_SPREAD = 55, 0.38  # median, and deviation of the logarithm
COMPLETION_TOKENS, COMPLETION_SPREAD = 88, 0.44
CORRELATION = 0.5
SHORTEST, LONGEST = 12, 400  # of a prompt, of a completion

# What there is to learn: completions use few of the ids, and mostly one follows from the id before it.
COMPLETION_IDS = 48
FOLLOWS = 0.8


@dataclass(frozen=True)
class TokenRow:
    """One example; the completion, its closing token included, is ``ids[prompt_tokens:]``."""

    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def completion_mask(self) -> list[int]:
        return [0] * self.prompt_tokens + [1] * self.trained_tokens

    @property
    def labels(self) -> list[int]:
        """Give the completion's ids as targets at their own positions; the model shifts them."""
        return [IGNORE_INDEX] * self.prompt_tokens + list(self.ids[self.prompt_tokens :])

    @property
    def trained_tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens


@dataclass(frozen=True)
class Rows:
    """What is trained on, in the order of training, and what is scored afterwards."""

    training: tuple[TokenRow, ...]
    held_out: tuple[TokenRow, ...]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Rows":
        content = json.loads(path.read_text("utf-8"))
        return cls(
            *(tuple(TokenRow(tuple(row["ids"]), row["prompt_tokens"]) for row in rows) for rows in content.values())
        )


def generate(training: int, held_out: int, *, vocabulary: int, seed: int) -> Rows:
    """Make rows; the same arguments give the same ids on every machine."""
    rng = random.Random(seed)
    known = rng.sample(range(CLOSING_ID + 1, vocabulary), COMPLETION_IDS)
    follower = dict(zip(known, rng.sample(known, COMPLETION_IDS), strict=True))
    kinds = (_generate(count, known, follower, vocabulary, rng) for count in (training, held_out))
    return Rows(*kinds)


def _generate(
    count: int, known: Sequence[int], follower: dict[int, int], vocabulary: int, rng: random.Random
) -> tuple[TokenRow, ...]:
    return tuple(
        _generate_one(prompt, completion, known, follower, vocabulary, rng)
        for prompt, completion in _lengths(count, rng)
    )


def _generate_one(
    prompt: int, completion: int, known: Sequence[int], follower: dict[int, int], vocabulary: int, rng: random.Random
) -> TokenRow:
    ids = rng.choices(range(CLOSING_ID + 1, vocabulary), k=prompt)
    last = rng.choice(known)
    for _ in range(completion - 1):
        ids.append(last)
        last = follower[last] if rng.random() < FOLLOWS else rng.choice(known)
    return TokenRow((*ids, CLOSING_ID), prompt)


def _lengths(count: int, rng: random.Random) -> list[tuple[int, int]]:
    """Give each row's tokens of prompt and completion: evenly spaced quantiles, so that few rows have the shape too."""
    normal = NormalDist()
    quantiles = [normal.inv_cdf((n + 0.5) / count) for n in range(count)]
    prompts, others = (rng.sample(quantiles, count) for _ in range(2))
    lengths = []
    for prompt, other in zip(prompts, others, strict=True):
        completion = CORRELATION * prompt + (1 - CORRELATION**2) ** 0.5 * other
        lengths.append(
            (
                _clip(PROMPT_TOKENS * math.exp(PROMPT_SPREAD * prompt)),
                _clip(COMPLETION_TOKENS * math.exp(COMPLETION_SPREAD * completion)),
            )
        )
    return lengths


def _clip(tokens: float) -> int:
    return max(SHORTEST, min(LONGEST, round(tokens)))


def sample(rows: Sequence[TokenRow], count: int) -> tuple[TokenRow, ...]:
    """Choose ``count`` rows that are spread over the lengths as all are, in their order.

    One row is the one nearest to the mean length.
    """
    if count == 1:
        mean = sum(len(row.ids) for row in rows) / len(rows)
        return (min(rows, key=lambda row: abs(len(row.ids) - mean)),)
    by_length = sorted(range(len(rows)), key=lambda index: (len(rows[index].ids), index))
    chosen = {by_length[int((n + 0.5) * len(rows) / count)] for n in range(count)}
    return tuple(rows[index] for index in sorted(chosen))
