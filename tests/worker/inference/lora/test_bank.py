"""The bank of adapters: who has which columns, and what each token gets from them."""

import random
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from worker.inference.lora.adapter import Adapter, LoraPair, magnitude_scale
from worker.inference.lora.bank import LoraBank, LoraGroup
from worker.inference.lora.step_columns import LONGEST_SHARED, Span

INPUTS = 12
OUTPUTS = {"q": 10, "v": 6}


def make_adapter(number: int, ranks: dict[str, int], *, gains: bool = False) -> Adapter:
    generator = torch.Generator().manual_seed(number)
    pairs = {
        name: LoraPair(
            torch.randn(rank, INPUTS, generator=generator),
            torch.randn(rank, OUTPUTS[name], generator=generator),
            1 + torch.rand(OUTPUTS[name], generator=generator) if gains else None,
        )
        for name, rank in ranks.items()
    }
    return Adapter(f"digest-{number}", pairs, None, 0)  # type: ignore[arg-type] # nothing is rendered here


def make_bank(columns: int = 64) -> tuple[LoraBank, LoraGroup]:
    group = LoraGroup(["q", "v"], INPUTS, [OUTPUTS["q"], OUTPUTS["v"]])
    return LoraBank([group], columns, {"v": torch.full((OUTPUTS["v"],), 0.5)}), group


def place(bank: LoraBank, *adapters: Adapter) -> None:
    for adapter in adapters:
        assert bank.reserve(adapter)
    assert not bank.copy_some(2**40)


def delta(adapter: Adapter | None, x_NI: Tensor) -> Tensor:
    parts = []
    for name, width in OUTPUTS.items():
        pair = None if adapter is None else adapter.pairs.get(name)
        parts.append(x_NI.new_zeros(len(x_NI), width) if pair is None else x_NI @ pair.a_RI.T @ pair.b_RO)
    return torch.cat(parts, dim=1)


def check(bank: LoraBank, group: LoraGroup, spans: Sequence[Span]) -> None:
    x_NI = torch.randn(sum(span.tokens for span in spans), INPUTS)
    base_NO = torch.randn(len(x_NI), sum(OUTPUTS.values()))
    found_NO = base_NO.clone()
    group.add(x_NI, found_NO, bank.plan(spans))
    begin = 0
    for span in spans:
        tokens = slice(begin, begin + span.tokens)
        begin = tokens.stop
        torch.testing.assert_close(found_NO[tokens], base_NO[tokens] + delta(span.adapter, x_NI[tokens]))
        if span.adapter is None:
            assert found_NO[tokens].equal(base_NO[tokens])


def test_every_token_of_any_mix_gets_its_own_adapters_delta() -> None:
    rng = random.Random(1)
    for seed in range(30):
        bank, group = make_bank()
        adapters = [
            make_adapter(seed * 10 + 1, {"q": 8, "v": 8}),
            make_adapter(seed * 10 + 2, {"q": 3}),
            make_adapter(seed * 10 + 3, {"q": 1, "v": 17}),
        ]
        place(bank, *adapters)
        spans = [Span(rng.choice([1, 1, 2, LONGEST_SHARED, 20]), rng.choice([None, *adapters])) for _ in range(7)]
        spans.sort(key=lambda span: span.tokens)
        check(bank, group, spans)


def test_columns_that_another_adapter_had_leave_nothing_behind() -> None:
    bank, group = make_bank(columns=16)
    wide, narrow = make_adapter(1, {"q": 16, "v": 16}), make_adapter(2, {"v": 2})
    place(bank, wide)
    bank.unpin(wide)
    place(bank, narrow)
    check(bank, group, [Span(1, narrow), Span(1, None)])


def test_a_step_without_adapters_touches_nothing() -> None:
    bank, group = make_bank()
    plan = bank.plan([Span(1, None), Span(30, None)])
    assert not plan.segments
    assert not plan.touches(group.names)


def test_doras_magnitude_scales_outputs_but_not_their_bias() -> None:
    bank, group = make_bank()
    adapter = make_adapter(1, {"v": 4}, gains=True)
    place(bank, adapter)
    x_NI, base_NO = torch.randn(2, INPUTS), torch.randn(2, sum(OUTPUTS.values()))
    found_NO = base_NO.clone()
    group.add(x_NI, found_NO, bank.plan([Span(1, adapter), Span(1, None)]))
    scale_O = adapter.pairs["v"].magnitude_scale_O
    assert scale_O is not None
    expected = (base_NO[:1, 10:] + delta(adapter, x_NI[:1])[:, 10:] - 0.5) * scale_O + 0.5
    torch.testing.assert_close(found_NO[:1, 10:], expected)
    assert found_NO[:1, :10].equal(base_NO[:1, :10])
    assert found_NO[1:].equal(base_NO[1:])


def test_ranks_share_the_columns_without_padding_to_the_largest() -> None:
    bank, _ = make_bank(columns=64)
    place(bank, make_adapter(1, {"q": 8}), make_adapter(2, {"q": 32}), make_adapter(3, {"q": 24}))
    assert bank.used_columns == 64
    assert not bank.reserve(make_adapter(4, {"q": 1}))


def test_an_adapter_in_use_is_never_displaced_and_the_least_recently_used_goes_first() -> None:
    bank, _ = make_bank(columns=24)
    first, second, third = (make_adapter(number, {"q": 8}) for number in (1, 2, 3))
    place(bank, first, second, third)
    bank.unpin(first)
    bank.unpin(third)
    place(bank, first)
    bank.unpin(first)  # used later than the third
    place(bank, make_adapter(4, {"q": 8}))
    assert set(bank.placed) == {"digest-1", "digest-2", "digest-4"}
    place(bank, make_adapter(5, {"q": 8}))
    assert set(bank.placed) == {"digest-2", "digest-4", "digest-5"}
    assert not bank.reserve(make_adapter(6, {"q": 8}))


def test_an_adapter_is_not_ready_before_all_of_it_was_copied() -> None:
    groups = [LoraGroup(["q"], INPUTS, [10]), LoraGroup(["v"], INPUTS, [6])]
    bank = LoraBank(groups, 16, {})
    adapter = make_adapter(1, {"q": 4, "v": 4})
    assert bank.reserve(adapter)
    assert not bank.is_ready(adapter)
    assert bank.copy_some(1)
    assert not bank.is_ready(adapter)
    assert not bank.copy_some(2**30)
    assert bank.is_ready(adapter)


def test_columns_do_not_keep_an_adapter_in_memory_that_its_cache_gave_up() -> None:
    bank, _ = make_bank()
    adapter = make_adapter(1, {"q": 4})
    place(bank, adapter)
    kept = weakref.ref(adapter)
    bank.unpin(adapter)
    del adapter
    assert kept() is None
    assert bank.placed == ("digest-1",)


def test_a_dropped_adapter_stays_while_it_is_used() -> None:
    bank, _ = make_bank()
    adapter = make_adapter(1, {"q": 4})
    place(bank, adapter)
    bank.drop(adapter.digest)
    assert bank.placed == (adapter.digest,)
    bank.unpin(adapter)
    assert not bank.placed
    bank.drop(adapter.digest)


def test_only_an_adapter_within_the_columns_fits() -> None:
    bank, _ = make_bank(columns=16)
    assert bank.fits(make_adapter(1, {"q": 16}))
    assert not bank.fits(make_adapter(2, {"q": 17}))


def test_unpinning_twice_is_found() -> None:
    bank, _ = make_bank()
    adapter = make_adapter(1, {"q": 4})
    place(bank, adapter)
    bank.unpin(adapter)
    with pytest.raises(AssertionError, match="more often"):
        bank.unpin(adapter)


def test_a_gain_gives_each_row_of_the_adapted_weight_its_learnt_length() -> None:
    weight, a, b = torch.randn(6, INPUTS), torch.randn(3, INPUTS), torch.randn(6, 3)
    length = torch.rand(6) + 0.5
    scale_O = magnitude_scale(length, weight, a, b, 2.0)
    torch.testing.assert_close(((weight + 2 * b @ a) * scale_O[:, None]).norm(dim=1), length)
