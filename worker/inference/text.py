"""Turns one request's generated ids into text: whole characters, no end token, nothing of a stop sequence."""

from core.text.tokenizer import TextStream


class AnswerText:
    """Text of one answer as it grows, less what might still turn out to be a stop sequence."""

    def __init__(self, stream: TextStream, stop: tuple[str, ...]) -> None:
        self._stream = stream
        self._stop = stop
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Add a token and give the text that is certain now; sets ``is_stopped`` when a stop was met."""
        return self._release(self._stream.push(token_id))

    def finish(self) -> str:
        """Give what was held back, once no token will follow."""
        rest = self._release(self._stream.flush())
        held, self._held = self._held, ""
        return rest + held

    def _release(self, text: str) -> str:
        """Give all text that no stop sequence, complete or begun, can claim any more.

        With stop "END", "a E" gives "a " and holds "E"; then "N" gives "", and "T" gives "ENT".
        """
        text = self._held + text
        start = _find_stop(text, self._stop)
        if start is not None:
            self.is_stopped = True
            self._held = ""
            return text[:start]
        keep = len(text) - _begun_stop_length(text, self._stop)
        self._held = text[keep:]
        return text[:keep]


def _find_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Give where the stop that ends first begins; of two that end together, the longer."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return min(found)[1] if found else None


def _begun_stop_length(text: str, stop: tuple[str, ...]) -> int:
    """Give the length of the longest tail of the text that a stop begins with."""
    longest = max((len(s) - 1 for s in stop), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(s.startswith(text[-length:]) for s in stop):
            return length
    return 0
