"""Incremental detokenization of one request: whole characters, no end token, nothing of a stop sequence."""

from core.text.tokenizer import TextStream


class Detokenizer:
    """Text of one completion as it grows, less what might still turn out to be a stop sequence.

    Attributes:
        matched_stop: the stop sequence that ended the text; None until then.
    """

    def __init__(self, stream: TextStream, stop: tuple[str, ...]) -> None:
        self._stream = stream
        self._stops = [_StopMatcher(text) for text in stop]
        self._first_chars = {text[0] for text in stop}
        self._held = ""
        self.matched_stop: str | None = None

    @property
    def is_stopped(self) -> bool:
        return self.matched_stop is not None

    def push(self, token_id: int) -> str:
        """Add a token and give the text that is certain now; sets ``matched_stop`` when a stop sequence ends in it."""
        return self._release(self._stream.push(token_id))

    def finish(self) -> str:
        """Give what was held back, once no token will follow."""
        rest = self._release(self._stream.flush())
        held, self._held = self._held, ""
        return rest + held

    def _release(self, new: str) -> str:
        """Give all text that no stop sequence, complete or begun, can claim any more.

        With stop "END", "a E" gives "a " and holds "E"; then "N" gives "", and "T" gives "ENT".
        """
        if not self._held and self._first_chars.isdisjoint(new):
            return new  # nothing is begun, and nothing begins
        text = self._held + new
        for end, char in enumerate(new, start=len(self._held) + 1):
            matched = [stop.text for stop in self._stops if stop.push(char)]
            if matched:
                self.matched_stop = max(matched, key=len)  # of two that end together, the longer
                self._held = ""
                return text[: end - len(self.matched_stop)]
        keep = len(text) - max(stop.begun for stop in self._stops)
        self._held = text[keep:]
        return text[:keep]


class _StopMatcher:
    """Finds one stop sequence in a text that comes character by character, by Knuth, Morris and Pratt's algorithm.

    Attributes:
        begun: length of the longest tail of the text so far that the sequence begins with.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.begun = 0
        self._shorter = _borders(text)

    def push(self, char: str) -> bool:
        """Add a character and tell whether the sequence ends with it; after that nothing may be added."""
        self.begun = _extended(self.text, self._shorter, self.begun, char)
        return self.begun == len(self.text)


def _borders(text: str) -> list[int]:
    """Give for each length of a beginning of the text the next shorter beginning that it ends with.

    "abab" gives 0 0 0 1 2: what matched "aba" has matched "a" too.
    """
    shorter = [0, 0]
    for char in text[1:]:
        shorter.append(_extended(text, shorter, shorter[-1], char))
    return shorter


def _extended(text: str, shorter: list[int], begun: int, char: str) -> int:
    """Give how much of the text's beginning is matched when a character follows ``begun`` matched ones."""
    while begun and text[begun] != char:
        begun = shorter[begun]
    return begun + (text[begun] == char)
