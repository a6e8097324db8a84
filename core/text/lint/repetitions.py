"""What of an example was seen before: all of it, its prompt, or all of it but for spelling.

Texts are remembered by Python's 64-bit hash: at 200,000 examples the chance that any two collide is
one in a billion.
"""

import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class ComparedText:
    """An example as it is compared: what stands before its last answer, and that answer.

    ``words`` are those of both in lower case; white-space separated pieces where there are no words.
    """

    prompt: str
    completion: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, prompt: str, completion: str) -> "ComparedText":
        whole = f"{prompt}\n{completion}".casefold()
        return cls(prompt, completion, tuple(_WORD.findall(whole) or whole.split()))


@dataclass(frozen=True, slots=True)
class Seen:
    """Lines of the first examples that are alike; None where there is none."""

    exact: int | None  # the same prompt and completion
    normalised: int | None  # the same but for case, white space and punctuation
    prompt: int | None  # the same prompt


class Repetitions:
    """Remembers examples by the line where each of their texts stood first."""

    def __init__(self) -> None:
        self._exact: dict[int, int] = {}
        self._normalised: dict[int, int] = {}
        self._prompts: dict[int, int] = {}

    def find(self, text: ComparedText) -> Seen:
        """Look an example up."""
        exact, normalised, prompt = _keys(text)
        return Seen(self._exact.get(exact), self._normalised.get(normalised), self._prompts.get(prompt))

    def add(self, text: ComparedText, line: int) -> Seen:
        """Look an example up, and remember it."""
        seen = self.find(text)
        exact, normalised, prompt = _keys(text)
        self._exact.setdefault(exact, line)
        self._normalised.setdefault(normalised, line)
        self._prompts.setdefault(prompt, line)
        return seen


def _keys(text: ComparedText) -> tuple[int, int, int]:
    return hash((text.prompt, text.completion)), hash(text.words), hash(text.prompt)
