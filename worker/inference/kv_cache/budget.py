"""How much memory the KV cache may take: that of running requests, and that of prompts that are kept for others.

Both lie on the model's device, so what the engine chooses by itself is one budget for the two. Numbers only: what is
free, and what a batch can need, is asked elsewhere.
"""

from typing import Final

from core.settings import Settings

SHARE: Final = 0.5  # of the memory that is free when the engine starts
FULL_BATCHES: Final = 2  # batches of requests over the whole context that the cache is at most made for


def running_bytes(settings: Settings, free_bytes: int, batch_bytes: int) -> int:
    """Give the limit for running requests, by default what the kept prompts leave of the budget, at least its half.

    ``batch_bytes`` is what a whole batch over the whole context takes.
    """
    if settings.engine_kv_bytes is not None:
        return settings.engine_kv_bytes
    budget = int(free_bytes * SHARE)
    return min(max(budget - settings.engine_prefix_bytes, budget // 2), FULL_BATCHES * batch_bytes)


def prefix_bytes(settings: Settings, running_bytes: int) -> int:
    """Give the limit for kept prompts: the setting, but where the engine chose the other limit no more than that."""
    if settings.engine_kv_bytes is not None:
        return settings.engine_prefix_bytes
    return min(settings.engine_prefix_bytes, running_bytes)
