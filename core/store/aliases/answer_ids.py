"""Ids of answers that were given for an alias: each names the move and, to whoever has the alias' key, the model.

So an answer can be rated later without that anything was written down when it was given. What ratings come to is
``ratings``' matter.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.store.aliases.answers import AnsweredFor

_MAC_BYTES: Final = 10  # 16 characters
_FORM: Final = re.compile(r"([a-z]{1,16}-([0-9a-v]{26}))-(\d{1,9})-([0-9a-v]{16})")


@dataclass(frozen=True)
class AnswerId:
    """An id's parts. ``created_at``: Unix seconds of the answer, which its time-ordered part tells."""

    plain: str
    move: int
    mac: str
    created_at: int

    def is_of(self, answered: AnsweredFor, key: str) -> bool:
        """Say whether the id was given to an answer of this model for this alias."""
        return hmac.compare_digest(self.mac, _mac(self.plain, answered, key))


def new_key() -> str:
    """Draw an alias' key."""
    return secrets.token_hex(16)


def signed(plain: str, answered: AnsweredFor, key: str) -> str:
    """Give the id of an answer for an alias. ``plain`` is a fresh one, ``key`` the alias'."""
    return f"{plain}-{answered.move}-{_mac(plain, answered, key)}"


def parse_answer_id(text: str) -> AnswerId | None:
    """Read an id; None: no answer for an alias has such a one."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    plain, time_ordered, move, mac = found.groups()
    # a UUIDv7, which begins with 48 bits of milliseconds
    created = base64.b32hexdecode(f"{time_ordered.upper()}======")[:6]
    return AnswerId(plain, int(move), mac, int.from_bytes(created, "big") // 1000)


def model_of(answer: AnswerId, alias: str, models: Iterable[str], key: str) -> str | None:
    """Give which of an alias' models gave an answer; None: none of them did."""
    return next((each for each in models if answer.is_of(AnsweredFor(alias, answer.move, each), key)), None)


def _mac(plain: str, answered: AnsweredFor, key: str) -> str:
    told = "\0".join((plain, answered.alias, str(answered.move), answered.model))
    digest = hmac.digest(key.encode(), told.encode(), hashlib.sha256)
    return base64.b32hexencode(digest[:_MAC_BYTES]).decode().lower()
