"""Chooses which examples are held out of training to be evaluated on."""

import hashlib


def held_out(prompt_key: str, seed: int) -> bool:
    """Hold out about one prompt in ten, by hash: equal prompts go to the same side, whatever their order."""
    digest = hashlib.sha256(f"{seed}\0{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0
