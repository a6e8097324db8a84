"""Slots: reserved whole, kept side by side, never more bytes than allowed, and nothing of one request in another's."""

import random

import pytest
import torch

from worker.inference.kv_cache.slots import KvPool, KvShape, KvSlot

SHAPE = KvShape(layers=2, kv_heads=3, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))


def make_pool(limit_tokens: int = 4096, context: int = 1000) -> KvPool:
    return KvPool(SHAPE, limit_tokens * SHAPE.bytes_per_token, context)


def fill(slot: KvSlot, length: int, value: float) -> None:
    for keys, values in zip(slot.arena.keys, slot.arena.values, strict=True):
        keys[slot.place, :, :, :length] = value
        values[slot.place, :, :length] = value
    slot.length = length


def holds(slot: KvSlot, value: float) -> bool:
    return all(
        bool((keys[slot.place, :, :, : slot.length] == value).all())
        and bool((values[slot.place, :, : slot.length] == value).all())
        for keys, values in zip(slot.arena.keys, slot.arena.values, strict=True)
    )


def allocated_bytes(pool: KvPool) -> int:
    return sum(t.nbytes for arena in pool._arenas.values() for t in (*arena.keys, *arena.values))


def test_a_slot_is_as_long_as_the_request_may_become() -> None:
    pool = make_pool()
    assert [pool.bytes_for(tokens) // SHAPE.bytes_per_token for tokens in (1, 128, 129, 513, 1000)] == [
        128,
        128,
        256,
        1000,
        1000,
    ]


def test_a_token_takes_keys_and_values_of_each_layer() -> None:
    assert SHAPE.bytes_per_token == 2 * 2 * 3 * 4 * 4
    assert make_pool().bytes_for(100) == 128 * SHAPE.bytes_per_token


def test_any_order_of_requests_keeps_each_ones_values_side_by_side_and_within_the_limit() -> None:
    rng = random.Random(3)
    pool = make_pool(limit_tokens=3000)
    held: dict[KvSlot, float] = {}
    refused = 0
    for number in range(400):
        if held and rng.random() < 0.45:
            slot = rng.choice(list(held))
            pool.release(slot, wipe=rng.random() < 0.2)
            del held[slot]
        else:
            tokens = rng.choice([20, 100, 200, 500, 900])
            new = pool.allocate(tokens)
            if new is None:
                refused += 1
                assert pool.used_bytes + pool.bytes_for(tokens) > pool.limit_bytes
            else:
                fill(new, rng.randint(1, tokens), float(number))
                held[new] = float(number)
        assert allocated_bytes(pool) <= pool.limit_bytes
        assert pool.used_slots == len(held)
        assert pool.used_bytes == sum(slot.arena.slot_bytes for slot in held)
        for slot, value in held.items():
            assert holds(slot, value)
        for arena in pool._arenas.values():
            assert [slot.place for slot in arena.slots] == list(range(len(arena.slots)))
    assert refused > 10


def test_a_pool_that_shrinks_keeps_the_slots_in_use_and_what_they_hold() -> None:
    pool = make_pool()
    kept, others = pool.allocate(100), [pool.allocate(100), pool.allocate(500)]
    assert kept is not None
    fill(kept, 100, 7.0)
    for slot in others:
        assert slot is not None
        pool.release(slot)
    pool.shrink()
    assert allocated_bytes(pool) == pool.used_bytes == pool.bytes_for(100)
    assert holds(kept, 7.0)


def test_a_wiped_slot_hands_no_value_on() -> None:
    pool = make_pool()
    bad = pool.allocate(100)
    assert bad is not None
    fill(bad, 100, float("nan"))
    pool.release(bad, wipe=True)
    following = pool.allocate(100)
    assert following is not None
    assert not any(bool(values.isnan().any()) for values in (*following.arena.keys, *following.arena.values))


def test_a_copied_block_is_the_same_in_another_slot() -> None:
    pool = make_pool()
    source, target = pool.allocate(100), pool.allocate(300)
    assert source is not None
    assert target is not None
    for values in (*source.arena.keys, *source.arena.values):
        values.copy_(torch.randn(values.shape))
    source.length = 40
    pool.append(target, [pool.read(source, 0, 16), pool.read(source, 16, 32)])
    assert target.length == 32
    assert pool.read(target, 0, 32).equal(pool.read(source, 0, 32))


def test_only_cached_tokens_can_be_forgotten() -> None:
    slot = make_pool().allocate(10)
    assert slot is not None
    slot.length = 5
    slot.truncate(3)
    assert slot.length == 3
    with pytest.raises(AssertionError):
        slot.truncate(4)
