"""Faults on purpose: each a scenario with real processes, run as tests and by ``python -m tests.faults``."""
