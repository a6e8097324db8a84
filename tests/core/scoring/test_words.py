from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.scoring.words import common_subsequence, words
from tests.core.scoring.samples import TEXTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's 2 hats", ["the", "cat", "s", "2", "hats"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("我喜欢ABC", ["我", "喜", "欢", "abc"]),
        ("か\u3099き", ["が", "き"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 말", ["한국어", "말"]),
        ("foo_bar(x+1)", ["foo_bar", "x", "1"]),
        ("… — !", []),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_or_characters_where_a_script_has_no_spaces(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(TEXTS)
@example("𝕬 straße ﬁ")
def test_neither_case_nor_the_writing_of_a_character_counts(text: str) -> None:
    assert words(text) == words(" ".join(words(text)))


def slow_common_subsequence(one: Sequence[object], other: Sequence[object]) -> int:
    """The table of the textbook."""
    row = [0] * (len(other) + 1)
    for element in one:
        before, row = row, [0]
        for place, found in enumerate(other):
            row.append(before[place] + 1 if element == found else max(before[place + 1], row[place]))
    return row[-1]


@given(st.text("abcd", max_size=40), st.text("abcd", max_size=90))
def test_the_longest_common_subsequence_is_the_textbooks(one: str, other: str) -> None:
    assert common_subsequence(one, other) == slow_common_subsequence(one, other) == common_subsequence(other, one)
