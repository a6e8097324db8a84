"""Labels, marks and sentences of previews; the page and the terminal use the same."""

import pytest

from app.web.preview_words import Mark, runs, sentence, visible
from core.text.files.examples import Chat, Message, PromptCompletion
from core.text.preview import Preview, preview
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

QA = PromptCompletion(1, "Q:", " A")


def show(tokenizer: TextTokenizer, *examples: PromptCompletion | Chat, weight: float = 0.0) -> Preview:
    settings = RenderSettings(prompt_loss_weight=weight, max_length=64)
    return preview(examples, Renderer(tokenizer, settings), limit=10)


def labels(tokenizer: TextTokenizer, example: PromptCompletion | Chat, weight: float) -> list[tuple[str, Mark, int]]:
    (shown,) = show(tokenizer, example, weight=weight).examples
    return [(run.label, run.mark, run.tokens) for run in runs(shown, weight)]


@pytest.mark.parametrize(
    ("weight", "prompt"),
    [
        (0.0, [("prompt, not trained", Mark.UNTRAINED, 2)]),
        (0.1, [("first token, not trained", Mark.UNTRAINED, 1), ("prompt, weight 0.1", Mark.PARTLY, 1)]),
        (1.0, [("first token, not trained", Mark.UNTRAINED, 1), ("prompt, trained", Mark.TRAINED, 1)]),
    ],
)
def test_runs_are_named_by_reason_and_weight(
    byte_tokenizer: TextTokenizer, weight: float, prompt: list[tuple[str, Mark, int]]
) -> None:
    rest = [("completion, trained", Mark.TRAINED, 2), ("end token, trained", Mark.TRAINED, 1)]
    assert labels(byte_tokenizer, QA, weight) == [*prompt, *rest]


def test_masked_and_weighted_answers_are_named(byte_tokenizer: TextTokenizer) -> None:
    turns = (
        Message("user", "a"),
        Message("assistant", "b", 0.0),
        Message("user", "c"),
        Message("assistant", "de", 0.5, ((0, 1),)),
    )
    (shown,) = preview([Chat(1, turns)], Renderer(byte_tokenizer), limit=1).examples
    assert [run.label for run in runs(shown, 0.0)] == [
        "prompt, not trained",
        "completion of weight 0, not trained",
        "end token, not trained",
        "prompt, not trained",
        "masked part, not trained",
        "completion, weight 0.5",
        "end token, weight 0.5",
        "template, not trained",
    ]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (0.0, "w = 0: 2 completion tokens and 1 closing token are trained; 2 prompt tokens are seen and not trained."),
        (
            0.1,
            "w = 0.1: 2 completion tokens and 1 closing token are trained; 1 prompt token is trained with weight 0.1; "
            "1 first token, which nothing predicts, is seen and not trained.",
        ),
        (
            1.0,
            "w = 1: 2 completion tokens, 1 closing token and 1 prompt token are trained; "
            "1 first token, which nothing predicts, is seen and not trained.",
        ),
    ],
)
def test_the_totals_are_one_sentence(byte_tokenizer: TextTokenizer, weight: float, words: str) -> None:
    assert sentence(show(byte_tokenizer, QA, weight=weight)) == words


def test_what_is_left_out_is_said(byte_tokenizer: TextTokenizer) -> None:
    found = show(byte_tokenizer, PromptCompletion(1, "p" * 100, "c"))
    assert sentence(found) == "w = 0: 102 tokens cut off; 1 example left out."


def test_an_empty_preview_has_a_sentence_too(byte_tokenizer: TextTokenizer) -> None:
    assert sentence(show(byte_tokenizer)) == "w = 0: there is nothing to show."


def test_tokens_that_share_a_character_are_drawn_as_one(byte_tokenizer: TextTokenizer) -> None:
    (shown,) = show(byte_tokenizer, PromptCompletion(1, "x", "é🙂")).examples
    completion = next(run for run in runs(shown, 0.0) if run.label == "completion, trained")
    assert [unit.text for unit in completion.units] == ["é", "🙂"]
    assert completion.units[0].title == (
        "2 tokens that share a character, ids 195, 169 · weight 1 · completion, trained"
    )
    assert completion.tokens == 6


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("a b", "a b"),
        ("a  b ", "a␣␣b␣"),
        ("\n\t", "↵⇥"),
        ("\r", "␍"),
        ("\x1b[31m", "␛[31m"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\x9b", "⟨U+009B⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("نعم\u200cم", "نعم\u200cم"),
        ("👩‍👩", "👩‍👩"),
    ],
)
def test_white_space_and_control_characters_can_be_seen(text: str, shown: str) -> None:
    assert "".join(piece.text for piece in visible(text)) == shown
