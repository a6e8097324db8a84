"""Chooses which examples are held out of training to be evaluated on."""

import hashlib
from collections.abc import Iterable
from typing import Final

HELD_OUT_ONE_IN: Final = 10  # prompts


def prompt_key(prompt_ids: Iterable[int]) -> str:
    """Name a prompt, so that examples with equal prompts are held out together."""
    return " ".join(map(str, prompt_ids))


def held_out(prompt_key: str, seed: int) -> bool:
    """Hold out about one prompt in ten, by hash: equal prompts go to the same side, whatever their order."""
    digest = hashlib.sha256(f"{seed}\0{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0
