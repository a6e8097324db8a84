"""Which of two models an alias has answer whom: always the same one, as long as the percentage stands."""

import hashlib

from core.store.aliases.records import Alias


def model_for(alias: Alias, whose: str | None) -> str:
    """Give the model that answers somebody; None: nobody in particular, whom the canary never answers.

    By a hash of the alias' name and theirs, so that whom the canary answers at 10 % it answers at 20 % too, and the
    first users of one alias are not those of another.
    """
    state = alias.state
    if state.canary is None or state.percent is None or whose is None:
        return state.model
    digest = hashlib.sha256(f"{alias.name}\0{whose}".encode()).digest()
    return state.canary if int.from_bytes(digest[:8], "big") < state.percent * 2**64 // 100 else state.model
