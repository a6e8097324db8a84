import asyncio
import itertools
from collections.abc import AsyncGenerator

import pytest

from benchmarks.correctness.mixes import ExpectedRow, MixRow, Tally, judge, make_mixes, make_prompts, make_specs, power
from benchmarks.correctness.ours import OurEngine
from core.errors import EngineBusy
from core.serving.generation import Delta, FinishReason, GenerationRequest, Token, Usage
from tests.harness.stub_engine import StubEngine

FAR = 1.0  # a margin that float32 does not cross
EXPECTED = {(model, 0): ExpectedRow(((model or 0) + 1,) * 4, (FAR,) * 4) for model in (None, 1, 2)}
MIX = (MixRow(None, 0, 4), MixRow(1, 0, 3), MixRow(2, 0, 4, leaves_after=2), MixRow(1, 0, 2, late_s=0.001))
DIGESTS = {1: "one", 2: "two"}
ANSWERS = {None: 1, "one": 2, "two": 3}


class SwappingEngine(StubEngine):
    """Answers what is expected of each adapter, or of another one where ``swaps`` says so."""

    def __init__(self, swaps: dict[str | None, str | None]) -> None:
        super().__init__()
        self.swaps = swaps

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        token_id = ANSWERS[self.swaps.get(request.adapter, request.adapter)]
        most = request.sampling.max_tokens
        for number in range(most):
            await asyncio.sleep(0)
            is_last = number == most - 1
            yield Delta(
                text="x",
                tokens=(Token(id=token_id, text="x", logprob=0.0, special=False),),
                finish_reason=FinishReason.LENGTH if is_last else None,
                usage=Usage(prompt_tokens=1, completion_tokens=most) if is_last else None,
            )


def tally_of(swaps: dict[str | None, str | None]) -> tuple[Tally, SwappingEngine]:
    engine, tally = SwappingEngine(swaps), Tally()
    outcomes = asyncio.run(OurEngine(engine, DIGESTS, [[5, 6]]).answer(MIX))
    for row, got in zip(MIX, outcomes, strict=True):
        judge(tally, row, got, EXPECTED[row.adapter, row.prompt])
    return tally, engine


def test_an_engine_that_answers_each_row_by_its_adapter_is_right() -> None:
    tally, engine = tally_of({})
    assert (tally.rows, tally.right, tally.wrong, tally.left) == (4, 4, 0, 1)
    assert {request.adapter for request in engine.requests} == {None, "one", "two"}
    assert all(request.sampling.ignore_end and request.prompt == (5, 6) for request in engine.requests)


@pytest.mark.parametrize(
    ("swaps", "wrong"), [({None: "two"}, 1), ({"one": "two"}, 2), ({"two": None}, 1), ({"one": "two", "two": "one"}, 3)]
)
def test_rows_of_a_swapped_adapter_are_found(swaps: dict[str | None, str | None], wrong: int) -> None:
    tally, _ = tally_of(swaps)
    assert (tally.wrong, tally.right) == (wrong, 4 - wrong)
    assert tally.examples


def test_a_difference_where_the_likeliest_tokens_are_as_likely_is_tied_and_counted() -> None:
    expected = ExpectedRow((1, 2, 3), (FAR, 5e-5, FAR))
    tally = Tally()
    judge(tally, MixRow(None, 0, 3), [1, 9, 9], expected)
    judge(tally, MixRow(None, 0, 3), [9, 2, 3], expected)
    assert (tally.rows, tally.tied, tally.wrong) == (2, 1, 1)


@pytest.mark.parametrize("got", [[], [1, 2], [1, 2, 3, 4]])
def test_an_answer_of_another_length_is_wrong(got: list[int]) -> None:
    tally = Tally()
    judge(tally, MixRow(None, 0, 3), got, ExpectedRow((1, 2, 3, 4), (FAR,) * 4))
    assert tally.wrong == 1


def test_a_refused_row_is_failed_not_wrong() -> None:
    tally = Tally()
    judge(tally, MixRow(None, 0, 3), EngineBusy(3, 1), ExpectedRow((1, 2, 3), (FAR,) * 3))
    assert (tally.failed, tally.wrong) == (1, 0)


def test_power_counts_pairs_that_answer_differently() -> None:
    same = ExpectedRow((1, 2), (FAR, FAR))
    assert power({(None, 0): same, (0, 0): same, (1, 0): ExpectedRow((1, 3), (FAR, FAR))}, 1) == pytest.approx(2 / 3)


def test_mixes_hold_all_that_they_are_to_try() -> None:
    mixes = make_mixes(0, count=200, adapters=16, prompts=6, tokens=8, most_rows=12, late_s=0.1)
    assert mixes == make_mixes(0, count=200, adapters=16, prompts=6, tokens=8, most_rows=12, late_s=0.1)
    rows = [row for mix in mixes for row in mix]
    assert {row.adapter for row in rows} == {None, *range(16)}
    assert any(row.late_s for row in rows)
    assert any(row.leaves_after for row in rows)
    assert any(len({row.adapter for row in mix}) < len(mix) for mix in mixes)
    prompts = make_prompts(0, count=6, shortest=8, longest=40, vocabulary=100)
    assert any(left[:4] == right[:4] for left, right in itertools.pairwise(prompts))


def test_adapters_are_of_all_ranks_and_kinds_unless_they_shall_be_plain() -> None:
    specs = make_specs(0, targets=["q_proj", "k_proj", "v_proj", "dense"])
    assert len(specs) == 16
    assert {spec.rank for spec in specs} == {4, 8, 16, 32, 64}
    assert any(spec.ranks and spec.alphas for spec in specs)
    assert all({*spec.ranks, *spec.alphas} <= set(spec.targets) for spec in specs)
    assert any(spec.use_rslora for spec in specs)
    assert not any(spec.ranks or spec.alphas for spec in make_specs(0, targets=["a", "b", "c"], is_plain=True))


def test_without_a_pair_there_is_no_power() -> None:
    assert power({(None, 0): ExpectedRow((1, 2), (FAR, FAR))}, 1) is None
