"""Golden previews on the byte tokenizer, whose ids are bytes, and whole or partial characters on real ones."""

from collections.abc import Sequence
from typing import Any

import pytest

from core.errors import ExampleInvalid, ExampleOverLength
from core.text import preview as module
from core.text.files.examples import Chat, Columns, Example, Message, PromptCompletion
from core.text.preview import Preview, PreviewedExample, preview
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Reason, Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import END_OF_TEXT


def show(
    tokenizer: TextTokenizer,
    examples: Sequence[Example],
    *,
    max_length: int = 64,
    limit: int = 10,
    **settings: Any,
) -> Preview:
    renderer = Renderer(tokenizer, RenderSettings(max_length=max_length, **settings))
    return preview(examples, renderer, limit=limit)


def show_one(tokenizer: TextTokenizer, prompt: str, completion: str, **options: Any) -> PreviewedExample:
    (example,) = show(tokenizer, [PromptCompletion(1, prompt, completion)], **options).examples
    return example


class TestTokens:
    def test_each_has_id_characters_weight_and_reason(self, byte_tokenizer: TextTokenizer) -> None:
        example = show_one(byte_tokenizer, "Q:", " A", prompt_loss_weight=0.25)
        rows = [
            (token.id, token.text, token.start, token.end, token.weight, token.reason, token.is_special)
            for token in example.tokens
        ]
        assert rows == [
            (ord("Q"), "Q", 0, 1, 0.0, Reason.PROMPT, False),  # nothing predicts the first one
            (ord(":"), ":", 1, 2, 0.25, Reason.PROMPT, False),
            (ord(" "), " ", 2, 3, 1.0, Reason.COMPLETION, False),
            (ord("A"), "A", 3, 4, 1.0, Reason.COMPLETION, False),
            (END_OF_TEXT, "<|endoftext|>", 4, 17, 1.0, Reason.END, True),
        ]
        counts = (example.prompt_tokens, example.completion_tokens, example.trained_tokens, example.dropped)
        assert counts == (2, 3, 4, 0)
        assert example.note is None

    def test_part_of_a_character_is_shown_as_the_tokenizer_decodes_it(self, byte_tokenizer: TextTokenizer) -> None:
        tokens = show_one(byte_tokenizer, "é", "x").tokens[:2]
        assert [(token.text, token.start, token.end) for token in tokens] == [("\ufffd", 0, 1), ("\ufffd", 0, 1)]

    @pytest.mark.parametrize("text", ["Grüße, 日本語", "مرحبا بالعالم", "👩‍👩‍👧 🇩🇪", "a\r\n\tb  c"])
    def test_whole_tokens_are_the_examples_characters(self, any_tokenizer: TextTokenizer, text: str) -> None:
        example = show_one(any_tokenizer, text, text, max_length=500)
        assert example.tokens[-1].end == len(example.text)
        for token in example.tokens:
            assert "\ufffd" in token.text or token.text == example.text[token.start : token.end]
        # no character is lost: those not shown whole are shown in parts
        shown = {place for token in example.tokens for place in range(token.start, token.end)}
        assert shown == set(range(len(example.text)))

    def test_masked_spans_and_message_weights_have_their_reasons(self, byte_tokenizer: TextTokenizer) -> None:
        chat = Chat(
            1,
            (
                Message("user", "a"),
                Message("assistant", "bc", 0.5),
                Message("user", "d"),
                Message("assistant", "efg", 1.0, ((1, 2),)),
            ),
        )
        (example,) = show(byte_tokenizer, [chat], max_length=500).examples
        answers = [(token.text, token.weight, token.reason) for token in example.tokens if token.text in "bcefg"]
        assert [row for row in answers if row[2] is not Reason.PROMPT] == [
            ("b", 0.5, Reason.MESSAGE_WEIGHT),
            ("c", 0.5, Reason.MESSAGE_WEIGHT),
            ("e", 1.0, Reason.COMPLETION),
            ("f", 0.0, Reason.MASKED_SPAN),
            ("g", 1.0, Reason.COMPLETION),
        ]


class TestOverLength:
    def test_a_dropped_example_shows_all_tokens_as_cut_off(self, byte_tokenizer: TextTokenizer) -> None:
        example = show_one(byte_tokenizer, "p" * 10, "c", max_length=8)
        assert {(token.weight, token.reason) for token in example.tokens} == {(0.0, Reason.TRUNCATED)}
        assert len(example.tokens) == example.dropped == 12
        assert (example.prompt_tokens, example.completion_tokens, example.trained_tokens) == (0, 0, 0)
        assert example.note == "dropped: 12 tokens, max_length is 8"

    def test_a_cut_prompt_shows_what_is_cut_off(self, byte_tokenizer: TextTokenizer) -> None:
        example = show_one(
            byte_tokenizer, "abcdefgh", "x", max_length=8, over_length="truncate_prompt", prompt_loss_weight=0.5
        )
        assert [(t.text, t.weight, t.reason) for t in example.tokens[:4]] == [
            ("a", 0.0, Reason.TRUNCATED),
            ("b", 0.0, Reason.TRUNCATED),
            ("c", 0.0, Reason.PROMPT),  # now the first that the model sees
            ("d", 0.5, Reason.PROMPT),
        ]
        assert (example.prompt_tokens, example.dropped) == (6, 2)
        assert example.note == "2 tokens of the prompt were cut off: 10 tokens, max_length is 8"

    def test_a_prompt_too_short_to_be_cut_is_said(self, byte_tokenizer: TextTokenizer) -> None:
        example = show_one(byte_tokenizer, "p", "c" * 10, max_length=8, over_length="truncate_prompt")
        assert example.note == "dropped: 12 tokens, max_length is 8, and its prompt cannot be cut by enough"

    def test_the_policy_error_fails_as_the_job_would(self, byte_tokenizer: TextTokenizer) -> None:
        with pytest.raises(ExampleOverLength, match="line 1 has 12 tokens"):
            show_one(byte_tokenizer, "p" * 10, "c", max_length=8, over_length="error")

    def test_of_many_tokens_cut_off_the_first_are_listed(
        self, byte_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "CUT_TOKENS_LISTED", 3)
        example = show_one(byte_tokenizer, "abcdefgh", "x", max_length=5, over_length="truncate_prompt")
        assert "".join(token.text for token in example.tokens[:-1]) == "abc" + "fgh" + "x"
        assert example.dropped == 5


class TestNotes:
    def test_a_moved_space_is_said(self, byte_tokenizer: TextTokenizer) -> None:
        made = PromptFormat(prompt="{{q}}: ", completion="{{a}}")
        (example,) = show(byte_tokenizer, [Columns(1, {"q": "Q", "a": "A"})], prompt_format=made).examples
        assert example.note == "a space at the prompt's end was moved to the completion"
        assert [(t.text, t.reason) for t in example.tokens[2:4]] == [(" ", Reason.COMPLETION), ("A", Reason.COMPLETION)]

    def test_an_example_without_weight_is_left_out(self, byte_tokenizer: TextTokenizer) -> None:
        chat = Chat(1, (Message("user", "a"), Message("assistant", "b", 0.0)))
        found = show(byte_tokenizer, [chat, PromptCompletion(2, "p", "c")], max_length=500)
        assert found.examples[0].note == "left out of training: every weight is 0"
        assert (found.totals.examples, found.totals.left_out, found.totals.completion_tokens) == (2, 1, 2)


class TestSelection:
    EXAMPLES = tuple(PromptCompletion(line, "p", "c") for line in range(1, 6))

    def test_the_limit_says_whether_others_follow(self, byte_tokenizer: TextTokenizer) -> None:
        for limit, has_more in ((4, True), (5, False)):
            found = show(byte_tokenizer, self.EXAMPLES, limit=limit)
            assert (len(found.examples), found.has_more) == (limit, has_more)

    def test_very_long_examples_end_a_preview_early(
        self, byte_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_TOKENS", 5)  # each has three
        found = show(byte_tokenizer, self.EXAMPLES)
        assert (len(found.examples), found.has_more) == (2, True)

    def test_totals_are_sums(self, byte_tokenizer: TextTokenizer) -> None:
        totals = show(byte_tokenizer, self.EXAMPLES, prompt_loss_weight=1.0).totals
        assert (totals.prompt_tokens, totals.completion_tokens, totals.trained_tokens) == (5, 10, 10)

    def test_an_example_that_cannot_be_rendered_fails_as_the_job_would(self, byte_tokenizer: TextTokenizer) -> None:
        with pytest.raises(ExampleInvalid, match="line 3: "):
            show(byte_tokenizer, [Columns(3, {"q": "x"})])
