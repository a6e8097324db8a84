"""Identifiers of stored things: a prefix that tells the kind, then a time-ordered random part. And of requests.

Because UUIDv7 grows with time, ordering by id is ordering by creation, which is what the
list endpoints page through.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import uuid_utils


def new_id(prefix: str) -> str:
    """Give a fresh id such as ``ftjob-06a1...`` (26 lower-case base32hex characters)."""
    # The base32hex alphabet keeps the byte order, so ids sort by time as text too.
    return f"{prefix}{base64.b32hexencode(uuid_utils.uuid7().bytes).decode().rstrip('=').lower()}"


def request_digest(requested: Mapping[str, Any]) -> str:
    """Give the digest by which a request, of these fields as they were sent, is known when it comes again."""
    return hashlib.sha256(json.dumps(requested, sort_keys=True).encode()).hexdigest()
