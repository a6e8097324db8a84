"""Random mixes of requests for the correctness section, and the judgement of their answers. Pure and seeded.

A mix is what arrives at an engine within a moment: rows of the base model and of several adapters, some late, some
whose client leaves. What is right is what PEFT says to each row alone; see ``oracle``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.serving.adapter_spec import AdapterSpec
from core.ratio import ratio

ADAPTERS: Final = 16
RANKS: Final = (4, 8, 16, 32, 64)
TIE: Final = 1e-4  # of logits: float32 in another order of addition may choose either


@dataclass(frozen=True)
class MixRow:
    """One request of a mix.

    Attributes:
        adapter: its number; None is the base model.
        prompt: its number among the prompts.
        late_s: how long after the first it is sent.
        leaves_after: tokens after which its client leaves; None: it stays.
    """

    adapter: int | None
    prompt: int
    max_tokens: int
    late_s: float = 0.0
    leaves_after: int | None = None


Mix = tuple[MixRow, ...]


@dataclass(frozen=True)
class ExpectedRow:
    """PEFT's greedy tokens, and at each the distance of the two likeliest tokens' logits."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass
class Tally:
    """What became of the rows."""

    rows: int = 0
    right: int = 0
    tied: int = 0
    wrong: int = 0
    failed: int = 0
    left: int = 0  # rows whose client left; they are judged by what they had
    examples: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def make_specs(seed: int, *, targets: Sequence[str], is_plain: bool = False) -> list[AdapterSpec]:
    """Give adapters of many ranks and kinds; plain ones have one rank and one alpha for all layers."""
    drawn = random.Random(seed)
    specs = []
    for number in range(ADAPTERS):
        rank = RANKS[number % len(RANKS)]
        has_pattern = not is_plain and number % 3 == 1
        own = list(targets) if number % 4 else drawn.sample(list(targets), 3)
        some = drawn.sample(own, 2)
        specs.append(
            AdapterSpec(
                f"m{number}",
                rank,
                seed=seed * 1000 + number,
                alpha=drawn.choice((1.0, 2.0, 0.5)) * rank,
                targets=tuple(own),
                ranks={some[0]: drawn.choice(RANKS)} if has_pattern else {},
                alphas={some[1]: float(drawn.choice((4, 16, 48)))} if has_pattern else {},
                use_rslora=number % 5 == 2,
                strength=0.6,
                dtype="float32",
            )
        )
    return specs


def make_prompts(seed: int, *, count: int, shortest: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Give prompts of random ids; every second one begins like the one before, as prompts of one template do.

    Each has a part that comes twice, so that looking for the prompt's own words finds some.
    """
    drawn = random.Random(seed)
    prompts: list[list[int]] = []
    for number in range(count):
        ids = [drawn.randrange(vocabulary) for _ in range(drawn.randint(shortest, longest))]
        if number % 2:
            shared = prompts[-1][: drawn.randint(shortest // 2, len(prompts[-1]))]
            ids = (shared + ids)[:longest]
        part = ids[: len(ids) // 3]
        prompts.append((ids + part)[:longest] if number % 3 == 0 else ids)
    return prompts


def make_mixes(
    seed: int, *, count: int, adapters: int, prompts: int, tokens: int, most_rows: int, late_s: float
) -> list[Mix]:
    """Draw mixes; each uses some of the adapters, from none to all, so that several rows often share one."""
    drawn = random.Random(seed)
    mixes = []
    for _ in range(count):
        some: list[int | None] = [None, *drawn.sample(range(adapters), drawn.randint(1, adapters))]
        rows = []
        for _ in range(drawn.randint(1, most_rows)):
            leaves = drawn.random() < 0.1
            most = drawn.randint(1, tokens)
            rows.append(
                MixRow(
                    adapter=drawn.choice(some),
                    prompt=drawn.randrange(prompts),
                    max_tokens=most,
                    late_s=drawn.choice((0.0, 0.0, drawn.uniform(0, late_s))),
                    leaves_after=drawn.randint(1, most) if leaves else None,
                )
            )
        mixes.append(tuple(rows))
    return mixes


def judge(tally: Tally, row: MixRow, got: Sequence[int] | Exception, right: ExpectedRow) -> None:
    """Count one row's answer. A row whose client left is judged by the tokens that it had."""
    tally.rows += 1
    tally.left += row.leaves_after is not None
    if isinstance(got, Exception):
        tally.failed += 1
        if len(tally.examples) < 5:
            tally.examples.append(f"failed: {got!r}"[:300])
        return
    wanted = right.ids[: row.max_tokens]
    least = row.max_tokens if row.leaves_after is None else row.leaves_after
    first = next((n for n, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), None)
    if first is None and least <= len(got) <= len(wanted):
        tally.right += 1
    elif first is not None and right.margins[first] < TIE:
        tally.tied += 1
    else:
        tally.wrong += 1
        if len(tally.examples) < 5:
            tally.examples.append(f"{row}: {list(got)} instead of {list(wanted)}")


def power(expected: dict[tuple[int | None, int], ExpectedRow], prompts: int) -> float | None:
    """Give the share of pairs of models whose answers to the same prompt differ: only there a mix-up is seen.

    None where no prompt was answered by two models.
    """
    differing = pairs = 0
    for prompt in range(prompts):
        answers = [one.ids for (_, number), one in expected.items() if number == prompt]
        for place, left in enumerate(answers):
            for right in answers[place + 1 :]:
                pairs += 1
                differing += left != right
    return ratio(differing, pairs)
