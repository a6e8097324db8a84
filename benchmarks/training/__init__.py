"""The parts of ``benchmarks.train``: the same examples through our trainer and through its peers."""
