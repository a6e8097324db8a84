import torch

from benchmarks.serving.probe import probe


def test_a_probe_measures_memory_and_both_types_with_the_threads_that_there_are() -> None:
    found = probe(read_bytes=2**20, size=32, budget_s=0)
    assert found.threads == torch.get_num_threads()
    assert min(found.read_gb_per_s, found.bf16_gflop_per_s, found.fp32_gflop_per_s) > 0
