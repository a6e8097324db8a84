"""Which training prompts are kept for the manifest."""

from pathlib import Path
from typing import Any

import pytest

from core.serving.adapter_format import MANIFEST_LIMIT_BYTES, TrainedPrompt, canonical_json
from core.serving.generation import Conversation, Turn, Variables
from core.text.files.examples import example_of
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.worker.training.run_folders import Line, render
from worker.training.data.kept_prompts import PROMPT_LIMIT_BYTES, PromptKeeper

PAIRS: list[Line] = [{"prompt": f"p{number}", "completion": "c"} for number in range(100)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return TextTokenizer.from_folder(folder)


def keep(tokenizer: TextTokenizer, lines: list[Line], **job: Any) -> tuple[TrainedPrompt, ...]:
    renderer = Renderer(tokenizer, RenderSettings(**job))
    keeper = PromptKeeper(renderer)
    for number, line in enumerate(lines, start=1):
        keeper.offer(renderer.example(example_of(line, number)))
    return keeper.prompts


def test_the_first_three_that_are_trained_on_are_kept(tmp_path: Path, tiny_llama: Path) -> None:
    data = render(tmp_path, tiny_llama, PAIRS)
    assert [prompt.source for prompt in data.prompts] == [f"p{line - 1}" for line in data.training.lines[:3]]


def test_a_prompt_that_was_cut_off_is_not_kept(tmp_path: Path, tiny_llama: Path) -> None:
    lines = [{"prompt": "x" * 20, "completion": "c"}, *PAIRS[:2]]
    data = render(tmp_path, tiny_llama, lines, validation=[], max_length=8, over_length="truncate_prompt")
    assert len(data.training) == 3
    assert [prompt.source for prompt in data.prompts] == ["p0", "p1"]


def test_prompts_that_would_fill_the_manifest_are_not_kept(tokenizer: TextTokenizer) -> None:
    long = {"prompt": "日" * (PROMPT_LIMIT_BYTES // 9), "completion": "c"}
    assert [prompt.source for prompt in keep(tokenizer, [long, *PAIRS])] == ["p0", "p1", "p2"]
    assert keep(tokenizer, [long]) == ()


def test_the_largest_that_are_kept_leave_room_in_the_manifest(tokenizer: TextTokenizer) -> None:
    lines = [{"prompt": "日" * chars, "completion": "c"} for chars in range(6000, 8000, 100) for _ in range(3)]
    kept = [keep(tokenizer, lines[place : place + 3]) for place in range(0, len(lines), 3)]
    largest = max((prompts for prompts in kept if prompts), key=lambda prompts: len(prompts[0].text))
    size_bytes = sum(len(canonical_json(prompt.model_dump(mode="json"))) for prompt in largest)
    assert PROMPT_LIMIT_BYTES * 2.5 < size_bytes < MANIFEST_LIMIT_BYTES // 2


class TestColumns:
    def test_only_those_of_the_prompt_are_kept(self, tokenizer: TextTokenizer) -> None:
        prompt_format = PromptFormat(prompt="{{q}}{{#r}}{{x}}{{^last}}, {{/last}}{{q}}{{/r}}", completion="{{a}}")
        line = {"a": "answer", "b": 1, "q": "Q", "r": [{"x": 1, "last": False}, {"x": 2, "last": True}]}
        (prompt,) = keep(tokenizer, [line], prompt_format=prompt_format)
        assert prompt.source == Variables(variables={"q": "Q", "r": line["r"]})
        assert prompt.text == "Q1, Q2Q"

    def test_a_column_named_only_inside_a_section_is_kept(self, tokenizer: TextTokenizer) -> None:
        prompt_format = PromptFormat(prompt="{{#r}}{{q}}: {{x}}{{/r}}", completion="{{a}}")
        line = {"a": "answer", "q": "Q", "r": [{"x": 1}]}
        (prompt,) = keep(tokenizer, [line], prompt_format=prompt_format)
        assert prompt.source == Variables(variables={"q": "Q", "r": [{"x": 1}]})

    def test_space_at_the_prompts_end_is_the_completions(self, tokenizer: TextTokenizer) -> None:
        prompt_format = PromptFormat(prompt="{{q}}: ", completion="{{a}}")
        (prompt,) = keep(tokenizer, [{"q": "Q", "a": "A"}], prompt_format=prompt_format)
        assert (prompt.text, prompt.ids) == ("Q:", tuple(b"Q:"))


@pytest.mark.parametrize(("train_on", "turns"), [("all_assistant", 1), ("last_assistant", 3)])
def test_the_messages_before_the_first_trained_answer_are_kept(
    tokenizer: TextTokenizer, train_on: str, turns: int
) -> None:
    texts = ("a", "b", "c", "d")
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)]
    (prompt,) = keep(tokenizer, [{"messages": messages}], train_on=train_on)
    assert prompt.source == Conversation(messages=tuple(Turn.model_validate(turn) for turn in messages[:turns]))
    assert prompt.text.endswith("<|im_start|>assistant\n")
