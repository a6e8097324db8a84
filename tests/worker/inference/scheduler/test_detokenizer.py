"""Text of a completion: whole characters, and nothing of a stop sequence."""

import re
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text.tokenizer import TextStream, TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from worker.inference.scheduler.detokenizer import Detokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return TextTokenizer.from_folder(folder)


def feed(tokenizer: TextTokenizer, text: str, *stop: str) -> tuple[list[str], bool]:
    """Push a text byte by byte until it stops; give what came out at each push and at the end."""
    detokenizer = Detokenizer(tokenizer.stream(), stop)
    pieces = []
    for byte in text.encode():
        pieces.append(detokenizer.push(byte))
        if detokenizer.is_stopped:
            return pieces, True
    return [*pieces, detokenizer.finish()], detokenizer.is_stopped


def test_text_without_stops_comes_at_once(tokenizer: TextTokenizer) -> None:
    assert feed(tokenizer, "abc") == (["a", "b", "c", ""], False)


def test_a_stop_that_spans_tokens_leaks_no_part(tokenizer: TextTokenizer) -> None:
    pieces, is_stopped = feed(tokenizer, "one END two", "END")
    assert ("".join(pieces), is_stopped) == ("one ", True)


def test_what_only_began_like_a_stop_comes_out_later(tokenizer: TextTokenizer) -> None:
    assert feed(tokenizer, "xENx", "END") == (["x", "", "", "ENx", ""], False)


def test_a_begun_stop_comes_out_when_the_answer_is_over(tokenizer: TextTokenizer) -> None:
    assert feed(tokenizer, "xEN", "END") == (["x", "", "", "EN"], False)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("say stop now", ("now", "stop"), "say "),  # the one met first
        ("abcd", ("abcd", "bc"), "a"),  # the one that ends first, though it begins later
        ("xab", ("b", "ab"), "x"),  # two that end together: no part of the longer one stays
        ("aab", ("ab",), "a"),  # a false start before the real one
        ("stop", ("stop",), ""),
    ],
)
def test_the_text_ends_before_the_stop_that_ends_first(
    tokenizer: TextTokenizer, text: str, stop: tuple[str, ...], expected: str
) -> None:
    pieces, is_stopped = feed(tokenizer, text, *stop)
    assert ("".join(pieces), is_stopped) == (expected, True)


def test_it_is_told_which_stop_was_met(tokenizer: TextTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.stream(), ("no", "END", "ND"))
    for byte in b"the EN":
        detokenizer.push(byte)
    assert detokenizer.matched_stop is None
    detokenizer.push(ord("D"))
    assert detokenizer.matched_stop == "END"


def test_a_stop_that_the_last_bytes_complete_is_met_at_the_end(tokenizer: TextTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.stream(), ("a\N{REPLACEMENT CHARACTER}",))
    assert [detokenizer.push(byte) for byte in "xa🙂".encode()[:-1]] == ["x", "", "", "", ""]
    assert (detokenizer.finish(), detokenizer.matched_stop) == ("", "a\N{REPLACEMENT CHARACTER}")


def test_a_long_stop_of_one_letter_is_found_without_going_back(tokenizer: TextTokenizer) -> None:
    stop = "a" * 50_000
    detokenizer = Detokenizer(cast(TextStream, PieceStream(["a" * 49_999, "b", "a"])), (stop, "c"))
    assert detokenizer.push(0) == ""
    assert len(detokenizer.push(1)) == 50_000
    for _ in range(49_999):
        assert detokenizer.push(2) == ""
    assert (detokenizer.push(2), detokenizer.matched_stop) == ("", stop)


def test_a_stop_of_a_character_of_two_tokens_is_met(tokenizer: TextTokenizer) -> None:
    assert feed(tokenizer, "né", "é") == (["n", "", ""], True)


class PieceStream:
    """Stands for a tokenizer's stream whose token n has the n-th text."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces

    def push(self, token_id: int) -> str:
        return self._pieces[token_id]

    def flush(self) -> str:
        return ""


@given(st.lists(st.text("abc", max_size=4), max_size=8), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_tokens_of_any_length_give_the_text_before_the_first_stop(pieces: list[str], stop: list[str]) -> None:
    detokenizer = Detokenizer(cast(TextStream, PieceStream(pieces)), tuple(stop))
    got, fed = "", ""
    for token_id, piece in enumerate(pieces):
        fed += piece
        got += detokenizer.push(token_id)
        if detokenizer.is_stopped:
            break
    else:
        got += detokenizer.finish()
    ends = [(match.end(), match.start(), s) for s in stop for match in [re.search(re.escape(s), fed)] if match]
    assert detokenizer.is_stopped == bool(ends)
    assert detokenizer.matched_stop == (min(ends)[2] if ends else None)
    assert got == (fed[: min(ends)[1]] if ends else fed)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop(text: str, stop: list[str]) -> None:
    detokenizer = Detokenizer(cast(TextStream, PieceStream(text)), tuple(stop))
    got = ""
    for number in range(len(text)):
        got += detokenizer.push(number)
        if detokenizer.is_stopped:
            return
        held = text[len(got) : number + 1]
        begun = [text[: number + 1].endswith(s[:length]) * length for s in stop for length in range(1, len(s))]
        assert len(held) == max(begun, default=0)


def test_characters_of_several_tokens_come_out_whole(tokenizer: TextTokenizer) -> None:
    pieces, _ = feed(tokenizer, "aé日🙂b")
    assert [piece for piece in pieces if piece] == ["a", "é", "日", "🙂", "b"]


def test_a_character_cut_off_at_the_end_becomes_one_mark(tokenizer: TextTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.stream(), ())
    pieces = [detokenizer.push(byte) for byte in "a🙂".encode()[:-1]]
    assert "".join(pieces) + detokenizer.finish() == "a\N{REPLACEMENT CHARACTER}"
