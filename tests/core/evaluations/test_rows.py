"""What an evaluation feeds a model for a row is what training fed it, and what it is held against the whole answer."""

from pathlib import Path

import pytest

from core.errors import ExampleInvalid
from core.evaluations.rows import EvaluationRow, choose_lines, read_rows
from core.text.files.examples import Chat, Columns, Example, Message, PromptCompletion
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_END, write_byte_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    write_byte_tokenizer(tmp_path)
    return TextTokenizer.from_folder(tmp_path)


def row_of(tokenizer: TextTokenizer, example: Example, **settings: object) -> EvaluationRow:
    [row] = read_rows([example], [example.line], Renderer(tokenizer, RenderSettings(**settings))).rows
    return row


def test_a_completion_is_judged_with_its_closing_token(tokenizer: TextTokenizer) -> None:
    row = row_of(tokenizer, PromptCompletion(3, "ab ", "cd"))
    assert (row.line, row.prompt, row.reference) == (3, "ab ", "cd")
    assert row.prompt_ids == tuple(b"ab ")
    assert row.answer_ids == (*b"cd", END_OF_TEXT)
    assert row.counted == (True, True, True)


def test_what_training_masks_does_not_count(tokenizer: TextTokenizer) -> None:
    row = row_of(tokenizer, PromptCompletion(1, "ab", "cde", ((1, 2),)))
    assert row.reference == "cde"
    assert row.counted == (True, False, True, True)


def test_white_space_that_moves_from_the_prompt_is_the_answers(tokenizer: TextTokenizer) -> None:
    prompt_format = PromptFormat(prompt="Q {{q}} ", completion="{{a}}")
    row = row_of(tokenizer, Columns(1, {"q": "x", "a": "y"}), prompt_format=prompt_format)
    assert (row.prompt, row.reference) == ("Q x", " y")


def test_of_a_conversation_the_last_answer_is_asked(tokenizer: TextTokenizer) -> None:
    messages = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    row = row_of(tokenizer, Chat(1, messages), train_on="last_assistant")
    assert row.reference == "d"
    assert row.prompt.endswith("c<|im_end|>\n<|im_start|>assistant\n")
    assert "b<|im_end|>" in row.prompt
    assert row.answer_ids == (*b"d", TURN_END)


def test_prompts_that_differ_in_case_and_space_alone_are_one_cluster(tokenizer: TextTokenizer) -> None:
    rows = [row_of(tokenizer, PromptCompletion(1, prompt, "x")) for prompt in ("A  b", "a b", "a c")]
    assert rows[0].cluster == rows[1].cluster != rows[2].cluster


def test_only_the_lines_that_are_wanted_are_read_and_long_ones_counted(tokenizer: TextTokenizer) -> None:
    examples = [PromptCompletion(line, "p" * (line * 10), "c") for line in range(1, 6)]
    read = read_rows(examples, (2, 3, 5), Renderer(tokenizer, RenderSettings(max_length=40)))
    assert ([row.line for row in read.rows], read.too_long) == ([2, 3], 1)


def test_a_row_that_cannot_be_rendered_is_named(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ExampleInvalid, match="line 1: ") as raised:
        row_of(tokenizer, Columns(1, {"q": "x"}))
    assert raised.value.lines == (1,)


def test_rows_are_chosen_by_their_hashes_and_given_in_the_files_order() -> None:
    assert choose_lines([(9, 1), (1, 2), (5, 3), (1, 4)], 3) == [2, 3, 4]
    assert choose_lines([(1, 4), (5, 3), (1, 2), (9, 1)], 3) == [2, 3, 4]
