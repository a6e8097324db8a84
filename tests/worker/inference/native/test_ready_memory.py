"""Memory for the next adapter is there before it is asked for, of the size that was prepared, and once."""

import gc

import psutil
import torch

from worker.inference.native.ready_memory import MOST_READY_BYTES, ReadyMemory

SIZE_BYTES = 2**26


def taken_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_what_was_prepared_has_its_memory_before_it_is_taken() -> None:
    ready, before = ReadyMemory(), taken_bytes()
    ready.prepare(SIZE_BYTES)
    ready.wait()
    prepared = taken_bytes()
    assert prepared - before > 0.9 * SIZE_BYTES
    mapping = ready.take(SIZE_BYTES)
    torch.frombuffer(mapping, dtype=torch.int8).fill_(1)
    assert taken_bytes() - prepared < 0.1 * SIZE_BYTES


def test_each_mapping_is_given_once_and_holds_zeros() -> None:
    ready = ReadyMemory()
    ready.prepare(SIZE_BYTES)
    ready.wait()
    first, second = ready.take(SIZE_BYTES), ready.take(SIZE_BYTES)
    torch.frombuffer(first, dtype=torch.int8).fill_(1)
    assert not torch.frombuffer(second, dtype=torch.int8).any()
    assert len(first) == len(second) == SIZE_BYTES


def test_another_size_replaces_what_was_ready() -> None:
    ready, before = ReadyMemory(), taken_bytes()
    for size_bytes in (SIZE_BYTES, SIZE_BYTES // 2, SIZE_BYTES // 2):
        ready.prepare(size_bytes)
    ready.wait()
    assert 0.9 * SIZE_BYTES // 2 < taken_bytes() - before < 0.9 * SIZE_BYTES
    assert len(ready.take(SIZE_BYTES)) == SIZE_BYTES


def test_what_would_be_too_large_is_not_prepared() -> None:
    ready, before = ReadyMemory(), taken_bytes()
    ready.prepare(MOST_READY_BYTES + 1)
    ready.wait()
    assert taken_bytes() - before < SIZE_BYTES
