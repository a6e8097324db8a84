"""The engine's numbers as Prometheus reads them."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.serving.generation import EngineInfo
from worker.inference.metrics.adapter_usage import SHOWN
from worker.inference.metrics.engine_metrics import MOST_NAMES, EngineMetrics

INFO = EngineInfo(
    base_model="tiny",
    fingerprint="f",
    context_tokens=8,
    device="cpu",
    dtype="float32",
    max_batch=4,
    resident_adapters=("a" * 64, "b" * 64),
    resident_adapter_bytes=20,
    loading_adapters=1,
    waiting_requests=3,
    waiting_tokens=30,
    running_requests=2,
    kv_bytes=7,
    kv_limit_bytes=70,
    prefill_tokens_per_s=50.5,
    decode_tokens_per_s=9.5,
)


def read(metrics: EngineMetrics) -> dict[tuple[str, str], float]:
    """Give each sample by its name, without the common beginning, and its only label's value."""
    return {
        (sample.name.removeprefix("loramill_engine_"), next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def finish(metrics: EngineMetrics, adapter: str | None, prompt_tokens: int = 1, completion_tokens: int = 2) -> None:
    metrics.usage.count(adapter, prompt_tokens, completion_tokens)


def test_the_load_is_the_one_the_engine_told_last() -> None:
    metrics = EngineMetrics()
    metrics.observe(INFO)
    metrics.observe(INFO.model_copy(update={"waiting_requests": 1}))
    samples = read(metrics)
    names = ("waiting_requests", "waiting_tokens", "running_requests", "kv_reserved_bytes", "kv_limit_bytes")
    assert [samples[name, ""] for name in names] == [1, 30, 2, 7, 70]
    assert [samples[name, ""] for name in ("adapters", "adapter_bytes", "adapters_loading")] == [2, 20, 1]
    assert [samples[f"{work}_tokens_per_second", ""] for work in ("prefill", "decode")] == [50.5, 9.5]


def test_two_engines_of_one_process_count_apart() -> None:
    one, other = EngineMetrics(), EngineMetrics()
    one.adapter_evictions.inc()
    assert read(one)["adapter_evictions_total", ""] == 1
    assert read(other)["adapter_evictions_total", ""] == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc tells a process's memory here")
def test_the_processs_own_memory_is_told() -> None:
    assert read(EngineMetrics())["process_resident_memory_bytes", ""] > 2**20


def test_names_that_are_not_short_and_plain_are_counted_together() -> None:
    metrics = EngineMetrics()
    for reason in ("digest", "digest", "tensor 'x' has shape [1, 2]", "é", "", "x" * 41):
        metrics.adapter_refusals.labels(reason).inc()
    samples = read(metrics)
    assert samples["adapter_refusals_total", "digest"] == 2
    assert samples["adapter_refusals_total", "other"] == 4


def test_a_label_takes_few_values() -> None:
    metrics = EngineMetrics()
    for number in range(10 * MOST_NAMES):
        metrics.cancelled_requests.labels(f"cause_{number}").inc()
    counts = {name: value for (metric, name), value in read(metrics).items() if metric == "cancelled_requests_total"}
    assert len(counts) == MOST_NAMES + 1
    assert counts["other"] == 9 * MOST_NAMES


def test_tokens_are_counted_by_the_beginning_of_the_digest() -> None:
    metrics = EngineMetrics()
    finish(metrics, "a" * 64)
    finish(metrics, "a" * 64)
    finish(metrics, None, prompt_tokens=7)
    samples = read(metrics)
    assert samples["adapter_prompt_tokens_total", "a" * 12] == 2
    assert samples["adapter_completion_tokens_total", "a" * 12] == 4
    assert samples["adapter_prompt_tokens_total", "none"] == 7


def test_only_the_adapters_used_last_are_told_apart_and_no_token_is_lost() -> None:
    metrics = EngineMetrics()
    digests = [f"{number:064x}"[::-1] for number in range(SHOWN + 2)]
    for digest in (*digests[:SHOWN], digests[0], *digests[SHOWN:]):
        finish(metrics, digest)
    samples = read(metrics)
    counts = {name: value for (metric, name), value in samples.items() if metric == "adapter_prompt_tokens_total"}
    assert len(counts) == SHOWN + 2  # and the base model, and the others
    assert counts[digests[0][:12]] == 2  # used again, so it stayed
    assert digests[1][:12] not in counts
    assert counts["other"] == 2
    assert sum(counts.values()) == SHOWN + 3


def test_a_speed_has_no_sample_before_it_was_measured() -> None:
    metrics = EngineMetrics()
    metrics.observe(INFO.model_copy(update={"prefill_tokens_per_s": None, "decode_tokens_per_s": None}))
    speeds = {f"{work}_tokens_per_second" for work in ("prefill", "decode")} | {
        "probe_read_bytes_per_second",
        "probe_flops_per_second",
    }
    assert not speeds & {name for name, _ in read(metrics)}
    metrics.observe(INFO)
    assert speeds & {name for name, _ in read(metrics)} == {
        f"{work}_tokens_per_second" for work in ("prefill", "decode")
    }
