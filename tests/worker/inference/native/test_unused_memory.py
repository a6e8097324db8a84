"""A process gives back what it does not use, and goes on computing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is asked of Linux and glibc")

# In a process of its own: how much there is to give back depends on what ran before.
PROGRAM = """
import sys
from pathlib import Path
import torch
from worker.inference.native.unused_memory import release_unused_memory

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) // 1024

{before}
held = resident({kind!r})
release_unused_memory()
print(held, resident({kind!r}))
assert torch.linalg.svdvals(torch.eye(40) * 3).allclose(torch.full((40,), 3.0))
import sqlite3, decimal, unicodedata
assert sqlite3.connect(":memory:").execute("select 3").fetchone() == (3,)
"""

FREED_AROUND = """
kept, freed = [], []
for _ in range(2000):
    freed.append(torch.zeros(16384))  # 64 KiB, below what malloc maps by itself
    kept.append(torch.zeros(8))
del freed
"""


def _run(kind: str, before: str = "") -> tuple[int, int]:
    program = PROGRAM.format(kind=kind, before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    return held, left


def test_code_that_only_the_start_ran_is_let_go() -> None:
    held, left = _run("RssFile")
    assert left < held / 2


def test_what_was_freed_between_what_is_kept_is_given_back() -> None:
    held, left = _run("RssAnon", FREED_AROUND)
    assert held - left > 100
