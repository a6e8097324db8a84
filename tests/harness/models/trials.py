"""Engines that try nothing at their start, and compute as they do where there was no time for it.

What trials decide is no claim of the tests that use this; that an engine makes them is ``test_building``'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from worker.inference import building
from worker.inference.tuning.autotuner import Autotuner


@contextmanager
def no_trials() -> Iterator[None]:
    """Inside the block, give engines that are built in this process no time for trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "Autotuner", partial(Autotuner, budget_s=0.0))
        yield
