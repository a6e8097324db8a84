"""Words of a text in any script, and how alike two sequences are.

A word is a run of letters, digits, marks and underscores, in lower case and in Unicode's NFKC. Scripts that put no
space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have no such runs: there each character, with
the marks on it, is a word. Everything else, punctuation and symbols, separates; metrics by characters see it.
"""

import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Final, TypeVar

Element = TypeVar("Element", bound=Hashable)

# The most pairs of elements that an order-aware comparison looks at: two texts of 100,000 characters, about a second.
MAX_PAIRS: Final = 10**10
_RARE: Final = 8  # times or fewer that an element stands in a sequence

# Scripts without spaces: first and last code points. Katakana and hiragana with their extensions, CJK with all of its
# extensions and compatibility ideographs, Thai and Lao, Burmese, Khmer.
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


def _folded(text: str) -> str:
    """Fold case and compatible characters, as D146 of the Unicode standard, chapter 3.13, does: twice, as 𝕬 is an A."""
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", decomposed.casefold()).casefold())


def words(text: str) -> list[str]:
    """Cut a text into its words; see the module's first lines."""
    found: list[str] = []
    for kind, run in groupby(_folded(text), _kind):
        if kind == "word":
            found.append("".join(run))
        elif kind == "alone":
            found.extend(_characters("".join(run)))
    return found


def overlap_f1(wanted: Counter[Element], got: Counter[Element]) -> float:
    """Give the harmonic mean of precision and recall of two multisets, from 0 to 1; two empty ones are equal."""
    if not wanted or not got:
        return float(wanted == got)
    return 2 * (wanted & got).total() / (wanted.total() + got.total())


def common_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Give the length of the longest common subsequence, bit-parallel: one big integer holds a column of the table.

    Hyyrö, "Bit-parallel LCS-length computation revisited" (2004). Takes one pass over the shorter sequence, each of
    whose elements costs a few operations on as many bits as the longer one has elements.
    """
    short, long = sorted((one, other), key=len)
    places: dict[Hashable, list[int]] = {element: [] for element in set(short) & set(long)}
    for place, element in enumerate(long):
        if element in places:
            places[element].append(place)
    # kept only of frequent elements: those of a text of rare words would fill gigabytes
    masks = {element: _bits(found) for element, found in places.items() if len(found) > _RARE}
    every = (1 << len(long)) - 1
    column = every
    for element in short:
        if element in places:
            mask = masks[element] if element in masks else _bits(places[element])
            matches = column & mask
            column = ((column + matches) | (column - matches)) & every
    return len(long) - column.bit_count()


def _bits(places: Sequence[int]) -> int:
    bits = 0
    for place in places:
        bits |= 1 << place
    return bits


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    is_part = character == "_" or unicodedata.category(character)[0] in "LNM"
    if not is_part:
        return "between"
    is_alone = any(first <= ord(character) <= last for first, last in _UNSPACED)
    return "alone" if is_alone else "word"


def _characters(run: str) -> list[str]:
    """Cut a run into characters, each with the marks that follow it."""
    found: list[str] = []
    for character in run:
        if found and unicodedata.category(character)[0] == "M":
            found[-1] += character
        else:
            found.append(character)
    return found
