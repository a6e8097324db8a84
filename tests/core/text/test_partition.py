"""Which part of a training file an example is in."""

from collections.abc import Sequence
from typing import Any

from core.text.files.examples import Chat, Example, Message, PromptCompletion
from core.text.partition import fit_to_score, held_out, partition, prompt_key
from core.text.render_settings import RenderSettings
from core.text.rendering import RenderedExample, Renderer
from core.text.tokenizer import TextTokenizer


def test_about_a_tenth_is_held_out() -> None:
    held = sum(held_out(f"prompt {n}", seed=0) for n in range(10_000))
    assert 900 < held < 1100


def test_the_choice_depends_on_prompt_and_seed_alone() -> None:
    first = [held_out(f"prompt {n}", seed=1) for n in range(100)]
    assert first == [held_out(f"prompt {n}", seed=1) for n in range(100)]
    assert first != [held_out(f"prompt {n}", seed=2) for n in range(100)]


def test_the_choice_stays_the_same_across_versions() -> None:
    assert [n for n in range(60) if held_out(f"prompt {n}", seed=7)] == [28, 38, 39, 54, 56]


class CollectedLines(list[int]):
    """The lines of a part."""

    def add(self, fitted: RenderedExample) -> None:
        self.append(fitted.line)


def sort(
    tokenizer: TextTokenizer, examples: Sequence[Example], *, seed: int | None = None, **settings: Any
) -> tuple[list[int], ...]:
    """Give the lines that are trained on, held out, dropped and untrained."""
    renderer = Renderer(tokenizer, RenderSettings(**settings))
    parts = partition(map(renderer.example, examples), renderer, CollectedLines, seed=seed)
    return parts.trained, parts.held_out, parts.dropped_lines, parts.untrained_lines


def pairs(*prompts: str) -> list[Example]:
    return [PromptCompletion(line, prompt, "c") for line, prompt in enumerate(prompts, start=1)]


def test_each_example_is_in_one_part(byte_tokenizer: TextTokenizer) -> None:
    silent = Chat(4, (Message("user", "q"), Message("assistant", "a", 0.0)))
    examples = [*pairs("p", "p" * 100, "q"), silent]
    assert sort(byte_tokenizer, examples, max_length=64) == ([1, 3], [], [2], [4])


def test_prompts_that_are_drawn_are_held_out_with_all_that_repeat_them(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"prompt {n}" for n in range(100)]
    trained, scored, *_ = sort(byte_tokenizer, pairs(*prompts, *prompts), seed=0)
    assert len(scored) in range(4, 40)
    assert sorted(trained + scored) == list(range(1, 201))
    assert {line % 100 for line in trained}.isdisjoint({line % 100 for line in scored})


def test_without_a_seed_nothing_is_held_out(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"prompt {n}" for n in range(100)]
    assert sort(byte_tokenizer, pairs(*prompts))[1] == []


def test_where_every_prompt_is_drawn_none_is_held_out(byte_tokenizer: TextTokenizer) -> None:
    keys = [prompt_key(Renderer(byte_tokenizer).prompt(prompt).ids) for prompt in ("p", "q")]
    seed = next(seed for seed in range(1000) if [held_out(key, seed) for key in keys] == [True, False])
    assert sort(byte_tokenizer, pairs("p", "p"), seed=seed) == ([1, 2], [], [], [])
    assert sort(byte_tokenizer, [*pairs("p", "p"), PromptCompletion(3, "q", "c")], seed=seed)[1] == [1, 2]


def test_prompts_that_are_equal_once_they_are_cut_are_drawn_apart(byte_tokenizer: TextTokenizer) -> None:
    prompts = [f"{n:08}" + "end" for n in range(100)]
    settings: dict[str, Any] = {"max_length": 5, "over_length": "truncate_prompt"}
    trained, scored, *_ = sort(byte_tokenizer, pairs(*prompts), seed=0, **settings)
    assert (trained, scored) == sort(byte_tokenizer, pairs(*prompts), seed=0)[:2]
    assert scored


def test_of_examples_to_be_scored_a_too_long_one_is_left_out_whatever_the_policy(
    byte_tokenizer: TextTokenizer,
) -> None:
    renderer = Renderer(byte_tokenizer, RenderSettings(max_length=8, over_length="error"))
    long, short = (renderer.example(PromptCompletion(1, prompt, "c")) for prompt in ("p" * 8, "p"))
    assert fit_to_score(long, renderer) is None
    assert fit_to_score(short, renderer) is short
