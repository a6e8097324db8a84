import torch

from benchmarks.host.number_types import NumberTypes
from benchmarks.serving.probe import probe


def test_a_probe_measures_memory_and_both_types_with_the_threads_that_there_are() -> None:
    found = probe(NumberTypes("float32", 1.0), read_bytes=2**20, size=32, budget_s=0)
    assert found.threads == torch.get_num_threads()
    assert found.bf16_gflop_per_s is not None
    assert found.fp32_gflop_per_s is not None
    assert min(found.read_gb_per_s, found.bf16_gflop_per_s, found.fp32_gflop_per_s) > 0


def test_a_hopeless_type_is_not_tried() -> None:
    found = probe(NumberTypes("float32", 0.1), read_bytes=2**20, size=32, budget_s=0)
    assert found.bf16_gflop_per_s is None
    assert found.fp32_gflop_per_s is not None
