import functools
import threading
import time
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from core.text.text_bound import NFC_SHRINKS, find_bound
from core.text.tokenizer import STATED_TOKEN_BYTES, TURNS_CHARS, TextTokenizer, TextTooLarge, TooManyTokens

same_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
QWEN_SPLIT = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_names() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(normalizer: normalizers.Normalizer | None = None, *, missing: str = "") -> Tokenizer:
    """A byte-level BPE that joins the letters a to h, and spaces, into longer and longer tokens."""
    vocab = {name: index for index, name in enumerate(byte_names()) if name not in missing}
    merges = []
    for letters in ("abcdefgh", "Ġ" * 8):
        joined = letters[0]
        for letter in letters[1:]:
            merges.append((joined, letter))
            joined += letter
            vocab[joined] = 1000 + len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    tokenizer.add_special_tokens([AddedToken("<|a special token|>", special=True, normalized=False)])
    return tokenizer


def llama_like(*, fuse_unk: bool = True, byte_fallback: bool = True) -> Tokenizer:
    """A BPE as SentencePiece's: a space is a mark, and what is not in the vocabulary becomes its bytes."""
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256 if byte_fallback else 0)}
    for piece in ("▁", "▁▁", "▁▁▁▁", "a", "é", "aa", "aaaa", "▁aaaa"):
        vocab[piece] = len(vocab)
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("a", "a"), ("aa", "aa"), ("▁", "aaaa")]
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=byte_fallback)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


BOUNDED = {
    "byte-level": byte_level(),
    "bytes missing": byte_level(missing="\x01Ą"),
    "composed first": byte_level(normalizers.NFC()),
    "byte fallback": llama_like(),
    "an unknown token for each character": llama_like(fuse_unk=False, byte_fallback=False),
}


@functools.cache
def texts_of(tokenizer: Tokenizer) -> st.SearchStrategy[str]:
    """Texts made of what the tokenizer has the longest tokens for, and of anything else."""
    longest = sorted(tokenizer.get_vocab(), key=len)[-20:]
    spelt = [token.replace("Ġ", " ").replace("▁", " ") for token in longest]
    parts = st.one_of(st.sampled_from(spelt), st.text(), st.sampled_from(["\x01", "e\u0301", "\u1fef", "\u1100\u1161"]))
    return st.builds(lambda part, times, rest: part * times + rest, parts, st.integers(1, 50), parts)


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", BOUNDED)
@same_tokenizer
@given(data=st.data())
def test_no_text_has_fewer_tokens_than_its_bytes_tell(kind: str, data: st.DataObject) -> None:
    tokenizer = BOUNDED[kind]
    bound = find_bound(tokenizer)
    assert bound is not None
    text = data.draw(texts_of(tokenizer))
    assert count(tokenizer, text) >= bound.fewest_tokens(text)


@same_tokenizer
@given(data=st.data())
def test_nor_with_a_published_tokenizer(any_tokenizer: TextTokenizer, data: st.DataObject) -> None:
    assert any_tokenizer.bound is not None
    text = data.draw(texts_of(any_tokenizer._backend))
    assert len(any_tokenizer.encode(text)) >= any_tokenizer.bound.fewest_tokens(text)


def test_the_bound_is_met_by_a_text_of_the_longest_token(phi2: TextTokenizer, smollm2: TextTokenizer) -> None:
    for tokenizer, longest in ((phi2, "ÃÂ" * 32), (smollm2, "\n" + " " * 80)):
        assert tokenizer.bound is not None
        assert tokenizer.bound.token_bytes == len(longest.encode())
        assert len(tokenizer.encode(longest)) == tokenizer.bound.fewest_tokens(longest) == 1


def test_characters_that_become_no_token_do_not_count(smollm2: TextTokenizer) -> None:
    assert smollm2.encode("\x13" * 1000) == []
    assert smollm2.bound is not None
    assert smollm2.bound.fewest_tokens("\x13" * 1000) == 0


def _cutting_first(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """Give a byte-level BPE, whose parts alone would all be known to keep a text."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.ByteLevel(use_regex=False)])
    return tokenizer


def _swallowing_spaces() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


# Each with a text of which it makes hardly a token.
UNBOUNDED = {
    "a word is one unknown token": (Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), "b"),
    "unknown characters become one token": (llama_like(byte_fallback=False), "b"),
    "unknown characters are dropped": (Tokenizer(models.BPE({"a": 0}, [])), "b"),
    "pieces of any length": (Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False)), "b"),
    "white space at the ends is cut off": (byte_level(normalizers.Strip()), " "),
    "accents are removed": (
        byte_level(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        "\u0301",
    ),
    "white space is replaced": (byte_level(normalizers.Replace(Regex(r"\s+"), " ")), " "),
    "white space is dropped": (_cutting_first(pre_tokenizers.WhitespaceSplit()), " "),
    "what is cut at is dropped": (_cutting_first(pre_tokenizers.Split("x", "removed")), "x"),
    "a token swallows white space": (_swallowing_spaces(), " "),
}


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_where_a_text_can_vanish_no_bound_is_claimed(kind: str) -> None:
    tokenizer, vanishing = UNBOUNDED[kind]
    text = 1000 * vanishing + "<mask>" if kind == "a token swallows white space" else 1000 * vanishing
    assert find_bound(tokenizer) is None
    assert count(tokenizer, text) <= 2  # a token for the text, and one for what is put before it


def test_composing_makes_no_character_more_than_nine_times_shorter() -> None:
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    split = [(len(one.encode()), len(unicodedata.normalize("NFD", one).encode())) for one in every]
    by_standing_for = max(whole / parts for whole, parts in split)
    by_composing = max(parts / whole for whole, parts in split)
    assert by_standing_for * by_composing <= NFC_SHRINKS


class TestLimited:
    def test_a_text_that_cannot_fit_is_not_tokenised(
        self, byte_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TextTokenizer, "_encoding", _refuse_to_encode)
        with pytest.raises(TooManyTokens) as caught:
            byte_tokenizer.limited(100).encode_spans("a" * 13 * 101)  # 13 bytes are in <|endoftext|>
        assert caught.value.at_least == 101

    def test_one_that_could_is_tokenised_however_many_tokens_it_has(self, byte_tokenizer: TextTokenizer) -> None:
        ids, _ = byte_tokenizer.limited(100).encode_spans("a" * 13 * 100)
        assert len(ids) == 1300

    def test_tokens_far_over_the_limit_are_counted_but_not_listed(self, byte_tokenizer: TextTokenizer) -> None:
        with pytest.raises(TooManyTokens) as caught:
            byte_tokenizer.limited(8000).encode_spans("a" * 70_000)
        assert caught.value.at_least == 70_000

    def test_without_a_limit_nothing_is_refused(self, byte_tokenizer: TextTokenizer) -> None:
        byte_tokenizer.limited(1)
        assert len(byte_tokenizer.encode_spans("a" * 70_000)[0]) == 70_000

    def test_a_limit_in_bytes_holds_where_no_bound_is_known(self, byte_tokenizer: TextTokenizer) -> None:
        backend = Tokenizer.from_str(byte_tokenizer.to_json())
        backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
        tokenizer = TextTokenizer(backend, {"eos_token": "<|endoftext|>"}, [], digest="")
        assert tokenizer.bound is None
        assert tokenizer.limited(100).encode_spans(" " * STATED_TOKEN_BYTES * 100)
        with pytest.raises(TextTooLarge) as caught:
            tokenizer.limited(100).encode_spans(" " * (STATED_TOKEN_BYTES * 100 + 1))
        assert (caught.value.text_bytes, caught.value.limit_bytes) == (6401, 6400)


def _refuse_to_encode(_self: TextTokenizer, _text: str) -> None:
    raise AssertionError("it was tokenised")


@pytest.mark.parametrize("text", ["a" * 2**20, "🙂" * 2**17, "some words " * 2**16], ids=["a word", "emojis", "words"])
def test_other_threads_run_while_a_long_text_is_tokenised(smollm2: TextTokenizer, text: str) -> None:
    begins, ended = threading.Event(), threading.Event()

    def tokenise() -> None:
        begins.set()
        smollm2.encode_spans(text)
        ended.set()

    thread = threading.Thread(target=tokenise)
    thread.start()
    begins.wait()
    pauses = 0
    while not ended.is_set():
        time.sleep(0.001)
        pauses += 1
    thread.join()
    assert pauses > 10


def test_long_texts_are_tokenised_one_at_a_time(byte_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[float, float]] = []
    encode_batch = byte_tokenizer._backend.encode_batch

    class WatchedBackend:
        def encode_batch(self, texts: list[str], add_special_tokens: bool) -> object:
            begin = time.perf_counter()
            encoded = encode_batch(texts, add_special_tokens=add_special_tokens)
            spans.append((begin, time.perf_counter()))
            return encoded

    monkeypatch.setattr(byte_tokenizer, "_backend", WatchedBackend())
    threads = [threading.Thread(target=byte_tokenizer.encode, args=("a" * (TURNS_CHARS + 1),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one[1] <= other[0] for one, other in pairwise(sorted(spans)))
