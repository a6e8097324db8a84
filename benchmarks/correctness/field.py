"""A base model with adapters and prompts, PEFT's answer to each prompt by each of them, and who is judged by those."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.correctness.mixes import ExpectedRow, Mix, Tally, judge, make_mixes, make_prompts, make_specs
from benchmarks.correctness.oracle import PeftOracle
from benchmarks.serving.adapters import list_linears, write_adapters
from core.text.tokenizer import TextTokenizer

Outcome = list[int] | Exception
"""The ids that a row got, or the error that it was answered with."""


class Contestant(Protocol):
    """Answers a mix, row by row."""

    async def answer(self, mix: Mix) -> list[Outcome]: ...


@dataclass(frozen=True)
class Field:
    """A base model with adapters and prompts, and PEFT's answer to each prompt by each of them."""

    base: Path
    folders: dict[int, Path]
    prompts: list[list[int]]
    expected: dict[tuple[int | None, int], ExpectedRow]
    vocabulary: int

    def mixes(self, seed: int, count: int, *, most_rows: int = 12, late_s: float = 0.01) -> list[Mix]:
        tokens = max(len(one.ids) for one in self.expected.values())
        return make_mixes(
            seed,
            count=count,
            adapters=len(self.folders),
            prompts=len(self.prompts),
            tokens=tokens,
            most_rows=most_rows,
            late_s=late_s,
        )


def make_field(
    base: Path, folder: Path, *, seed: int, prompts: int, longest: int, tokens: int, is_plain: bool = False
) -> Field:
    """Write the adapters, and ask PEFT about everything."""
    targets = sorted({name.rsplit(".", 1)[-1] for name in list_linears(base)})
    specs = make_specs(seed, targets=targets, is_plain=is_plain)
    folders = dict(enumerate(write_adapters(base, folder, specs)))
    vocabulary = TextTokenizer.from_folder(base).vocab_size
    asked = make_prompts(seed, count=prompts, shortest=4, longest=longest, vocabulary=vocabulary)
    oracle = PeftOracle(base, folders, vocabulary=vocabulary)
    return Field(base, folders, asked, oracle.answers([None, *folders], asked, tokens), vocabulary)


async def judge_all(contestant: Contestant, field: Field, mixes: Sequence[Mix], tally: Tally) -> None:
    """Let a contestant answer mixes one after the other, and count."""
    for mix in mixes:
        for row, got in zip(mix, await contestant.answer(mix), strict=True):
            judge(tally, row, got, field.expected[row.adapter, row.prompt])
