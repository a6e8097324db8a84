"""Finds characters that a tokenizer does not give back: those that it drops for want of a token, or changes."""

from typing import Final

from core.text.tokenizer import TextTokenizer

LARGEST_ALPHABET: Final = 2**16  # no language's file has more; of others, what comes later counts as kept
_LETTER: Final = "a"  # that every tokenizer keeps


class LostCharacters:
    """Looks at texts one by one. Each character is tried once, so a file costs its alphabet and not its length."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tried: set[str] = set()
        self._lost: set[str] = set()

    def find(self, text: str) -> set[str]:
        """Give the characters of a text that are lost both when they stand alone and between letters."""
        characters = set(text)
        new = characters - self._tried
        if new and len(self._tried) < LARGEST_ALPHABET:
            self._tried |= new
            if not self._comes_back(_LETTER.join(["", *sorted(new), ""])):
                self._lost.update(character for character in new if self._is_lost(character))
        return characters & self._lost

    def _is_lost(self, character: str) -> bool:
        return not (self._comes_back(character) or self._comes_back(f"{_LETTER}{character}{_LETTER}"))

    def _comes_back(self, text: str) -> bool:
        return self._tokenizer.decode(self._tokenizer.encode(text), skip_special=False) == text
