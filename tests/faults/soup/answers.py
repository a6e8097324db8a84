"""What the API answered during a run, and which of it no client may ever see."""

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

# What a client is told while processes die: come again, or the answer broke off.
_LATER: Final = frozenset({429, 502, 503, 504})


@dataclass
class Answers:
    """Counts of all answers, and sentences about those that are wrong. Safe in many threads."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, action: str, status: int | None, body: bytes) -> None:
        """Take down an answer; ``status`` None: the connection broke or was refused."""
        fault = None if status is None else _fault(status, body)
        with self._lock:
            self.counts[f"{action} {'broken off' if status is None else status}"] += 1
            if fault is not None:
                self.wrong.append(f"{action}: {fault}")

    def complain(self, sentence: str) -> None:
        """Take down something else that must not be."""
        with self._lock:
            self.wrong.append(sentence)


def _fault(status: int, body: bytes) -> str | None:
    """Say what is wrong with an answer as such; None: nothing."""
    if status == 500:
        return f"status 500: {body[:300]!r}"
    if status < 400:
        return None
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return f"status {status} without JSON: {body[:300]!r}"
    if isinstance(answer, dict) and "ready" in answer:
        return None  # readiness tells of its parts, and is no error
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else answer.get("error_type")
    if not code:
        return f"status {status} without a code: {body[:300]!r}"
    if "Traceback" in str(answer):
        return f"status {status} with a traceback: {body[:300]!r}"
    return None


def is_temporary(status: int | None) -> bool:
    """Tell whether the same request may succeed when it is sent again."""
    return status is None or status in _LATER
