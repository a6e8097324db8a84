"""Which part of a training file an example is in."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.files.examples import Chat, Example, Message, PromptCompletion
from core.text.held_out import hash_of, normalised
from core.text.partition import fit_to_score, partition
from core.text.render_settings import RenderSettings
from core.text.rendering import RenderedExample, Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer


class CollectedLines(list[int]):
    """The lines of a part."""

    def add(self, fitted: RenderedExample) -> None:
        self.append(fitted.line)


@dataclass(frozen=True)
class ListSource:
    """Implements ``partition.ExampleSource`` over examples in memory."""

    listed: Sequence[Example]
    renderer: Renderer

    def prompts(self) -> Iterator[str]:
        return map(self.renderer.prompt_text, self.listed)

    def examples(self) -> Iterator[RenderedExample]:
        return map(self.renderer.example, self.listed)


def sort(
    tokenizer: TextTokenizer, examples: Sequence[Example], *, holds_out: bool = True, **settings: Any
) -> tuple[list[int], ...]:
    """Give the lines that are trained on, held out, dropped and untrained."""
    renderer = Renderer(tokenizer, RenderSettings(**settings))
    parts = partition(ListSource(examples, renderer), renderer, CollectedLines, holds_out=holds_out)
    return parts.trained, parts.held_out, parts.dropped_lines, parts.untrained_lines


def pairs(*prompts: str) -> list[Example]:
    return [PromptCompletion(line, prompt, "c") for line, prompt in enumerate(prompts, start=1)]


def test_each_example_is_in_one_part(byte_tokenizer: TextTokenizer) -> None:
    silent = Chat(4, (Message("user", "q"), Message("assistant", "a", 0.0)))
    examples = [*pairs("p", "p" * 100, "q"), silent]
    assert sort(byte_tokenizer, examples, holds_out=False, max_length=64) == ([1, 3], [], [2], [4])


WRITTEN_TWICE = [f"{word} {n}" for n in range(20) for word in ("prompt", "PROMPT ")]


@given(prompts=st.lists(st.sampled_from(WRITTEN_TWICE), max_size=60))
@settings(max_examples=30)
def test_no_prompt_is_in_both_parts_however_it_is_written(byte_tokenizer: TextTokenizer, prompts: list[str]) -> None:
    trained, scored, *_ = sort(byte_tokenizer, pairs(*prompts))
    assert sorted(trained + scored) == list(range(1, len(prompts) + 1))
    trained_prompts, scored_prompts = ({normalised(prompts[line - 1]) for line in lines} for lines in (trained, scored))
    assert trained_prompts.isdisjoint(scored_prompts)
    assert bool(scored) == (len(set(map(normalised, prompts))) > 1)
    assert bool(trained) == bool(prompts)


def test_the_tokenizer_does_not_matter(byte_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    other = _with_other_ids(tmp_path)
    assert not set(byte_tokenizer.encode("0")) & set(other.encode("0"))
    examples = pairs(*(f"prompt {n}" for n in range(100)))
    assert sort(byte_tokenizer, examples) == sort(other, examples)


def test_the_chat_template_does_not_matter(byte_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    other = _with_another_chat_template(tmp_path)
    chats: list[Example] = [
        Chat(line, (Message("system", "s"), Message("user", f"question {line}"), Message("assistant", "a")))
        for line in range(1, 101)
    ]
    first, second = (Renderer(one, RenderSettings()).example(chats[0]) for one in (byte_tokenizer, other))
    assert first.text != second.text
    assert sort(byte_tokenizer, chats) == sort(other, chats)


def _with_another_chat_template(folder: Path) -> TextTokenizer:
    """Give the byte tokenizer with a template that writes no system message."""
    write_byte_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = (
        "{% for message in messages %}{% if message.role == 'user' %}Q:{{ message.content }}\n"
        "{% elif message.role == 'assistant' %}A:{{ message.content }}<|endoftext|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    for path in folder.glob("chat_template*"):
        path.unlink()
    return TextTokenizer.from_folder(folder)


def _with_other_ids(folder: Path) -> TextTokenizer:
    """Give the byte tokenizer with the ids of all digits turned round, and a BOS."""
    write_byte_tokenizer(folder)
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    vocab = written["model"]["vocab"]
    vocab |= {digit: vocab[turned] for digit, turned in zip("0123456789", "9876543210", strict=True)}
    path.write_text(json.dumps(written))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    bos = {"bos_token": "<|endoftext|>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | bos))
    return TextTokenizer.from_folder(folder)


def test_max_length_moves_no_prompt_that_fits_to_the_other_side(byte_tokenizer: TextTokenizer) -> None:
    examples = pairs(*("p" * n for n in range(1, 101)))
    sides = [[set(lines) for lines in sort(byte_tokenizer, examples, max_length=n)] for n in (200, 60)]
    (trained, scored, *_), (fewer_trained, fewer_scored, dropped, _) = sides
    assert dropped
    assert fewer_scored == scored - dropped
    assert fewer_trained == trained - dropped
    assert fewer_scored


@pytest.mark.parametrize("begin", range(8))
def test_where_all_that_was_drawn_is_dropped_the_next_in_rank_is_held_out(
    byte_tokenizer: TextTokenizer, begin: int
) -> None:
    prompts = [f"{n:02}" for n in range(begin, begin + 12)]
    first, second, *_ = sorted(prompts, key=hash_of)
    long = [PromptCompletion(line, p, "c" * (100 if p == first else 1)) for line, p in enumerate(prompts, start=1)]
    trained, scored, dropped, _ = sort(byte_tokenizer, long, max_length=64)
    assert dropped == [prompts.index(first) + 1]
    assert scored == [prompts.index(second) + 1]
    assert len(trained) == 10


def test_where_only_what_was_drawn_can_be_used_the_last_in_rank_is_trained_on(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"{n:02}" for n in range(30)]
    drawn = sorted(prompts, key=hash_of)[:3]
    kept = [PromptCompletion(line, p, "c" * (1 if p in drawn else 100)) for line, p in enumerate(prompts, start=1)]
    trained, scored, *_ = sort(byte_tokenizer, kept, max_length=64)
    assert trained == [prompts.index(drawn[2]) + 1]
    assert sorted(scored) == sorted(prompts.index(prompt) + 1 for prompt in drawn[:2])


def test_what_has_no_answer_to_score_is_not_all_that_is_held_out(byte_tokenizer: TextTokenizer) -> None:
    for subject in range(6):
        chats: list[Example] = [
            Chat(line, (Message("user", f"q{line} of {subject}"), Message("assistant", "a", float(line <= 3))))
            for line in range(1, 13)
        ]
        trained, scored, *_ = sort(byte_tokenizer, chats, prompt_loss_weight=0.5)
        assert 1 <= len({1, 2, 3} & set(scored)) <= 2
        assert {1, 2, 3} & set(trained)


@pytest.mark.parametrize("train_on", ["all_assistant", "last_assistant"])
def test_a_prompts_text_is_the_same_before_and_after_it_is_rendered(
    byte_tokenizer: TextTokenizer, train_on: str
) -> None:
    renderer = Renderer(byte_tokenizer, RenderSettings.model_validate({"train_on": train_on}))
    turns = (Message("user", "q"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b"))
    first, other = Chat(1, turns), Chat(2, (*turns[:1], Message("assistant", "z"), *turns[2:]))
    for example in (first, other, *pairs("p", "")):
        assert renderer.prompt_text(example) == renderer.example(example).prompt_text
    is_one_prompt = renderer.prompt_text(first) == renderer.prompt_text(other)
    assert is_one_prompt == (train_on == "all_assistant")


def test_where_a_validation_file_says_what_to_score_nothing_is_held_out(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"prompt {n}" for n in range(100)]
    assert sort(byte_tokenizer, pairs(*prompts), holds_out=False)[1] == []


def test_of_one_prompt_nothing_is_held_out(byte_tokenizer: TextTokenizer) -> None:
    for prompt in "abcdefghij":
        assert sort(byte_tokenizer, pairs(prompt, prompt.upper())) == ([1, 2], [], [], [])


def test_prompts_that_are_equal_once_they_are_cut_are_drawn_apart(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"{n:08}" + "end" for n in range(100)]
    settings: dict[str, Any] = {"max_length": 5, "over_length": "truncate_prompt"}
    trained, scored, *_ = sort(byte_tokenizer, pairs(*prompts), **settings)
    assert (trained, scored) == sort(byte_tokenizer, pairs(*prompts))[:2]
    assert scored


def test_of_examples_to_be_scored_a_too_long_one_is_left_out_whatever_the_policy(
    byte_tokenizer: TextTokenizer,
) -> None:
    renderer = Renderer(byte_tokenizer, RenderSettings(max_length=8, over_length="error"))
    long, short = (renderer.example(PromptCompletion(1, prompt, "c")) for prompt in ("p" * 8, "p"))
    assert fit_to_score(long, renderer) is None
    assert fit_to_score(short, renderer) is short
