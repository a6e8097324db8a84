"""Requests that could never be answered are refused with what would have to change."""

from pathlib import Path

import pytest

from core.errors import AdapterInvalid, InvalidParameter
from tests.worker.inference.scheduler.fake_runner import SHAPE
from tests.worker.inference.scheduler.loop_harness import LoopHarness
from worker.inference.kv_cache.slots import KvPool
from worker.inference.scheduler.request_checks import check_adapter, check_room


def test_a_request_larger_than_all_memory_for_keys_and_values_is_refused() -> None:
    kv = KvPool(SHAPE, 128 * SHAPE.bytes_per_token, 256)
    check_room(28, 100, kv)
    with pytest.raises(InvalidParameter, match="LORAMILL_ENGINE_KV_BYTES") as caught:
        check_room(29, 100, kv)
    assert caught.value.param == "max_tokens"


def test_a_request_that_passes_begins_at_once_where_nothing_runs(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"kv_slots": 1, "columns": 16})
    adapter = harness.adapter("a", rank=16)
    check_room(28, 100, harness.runner.kv)
    check_adapter(adapter, harness.runner.bank)
    request = harness.submit("x" * 28, adapter, max_tokens=100)
    harness.step()
    assert len(request.ids) >= 1


def test_an_adapter_wider_than_the_bank_is_refused(tmp_path: Path) -> None:
    harness = LoopHarness(tmp_path, runner={"columns": 16})
    with pytest.raises(AdapterInvalid, match="LORAMILL_ENGINE_LORA_COLUMNS"):
        check_adapter(harness.adapter("a", rank=17), harness.runner.bank)
