from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import AllExamplesDropped, EndNeverTrained, ExampleInvalid, ExampleOverLength, NoTrainedTokens
from core.text.files.examples import Example
from core.text.render_settings import PromptFormat
from core.text.rendering import RenderedExample, Renderer
from tests.harness.models.byte_tokenizer import END_OF_TEXT
from tests.worker.training.run_folders import render

ONE = {"prompt": "ab", "completion": "cd"}
MANY = [{"prompt": f"What is {number}?", "completion": f" {number}"} for number in range(200)]


class TestWeights:
    def test_completion_and_closing_token_weigh_one_and_the_prompt_w(self, tmp_path: Path, tiny_phi: Path) -> None:
        example = render(tmp_path, tiny_phi, [ONE], validation=[], prompt_loss_weight=0.25).training[0]
        assert example.ids_T.tolist() == [*b"abcd", END_OF_TEXT]
        assert example.weights_T.tolist() == [0.0, 0.25, 1.0, 1.0, 1.0]
        assert example.is_completion_T.tolist() == [False, False, True, True, True]

    def test_the_first_token_is_never_a_target(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, [ONE, ONE], validation=[], prompt_loss_weight=1.0)
        assert [data.training[index].weights_T[0] for index in range(2)] == [0.0, 0.0]

    def test_a_message_of_weight_zero_is_no_completion(self, tmp_path: Path, tiny_phi: Path) -> None:
        chat = {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "weight": 0},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
            ]
        }
        example = render(tmp_path, tiny_phi, [chat], validation=[]).training[0]
        trained = example.ids_T[example.is_completion_T].tolist()
        assert bytes(trained[:1]) == b"d"
        assert len(trained) == 2


class TestHeldOut:
    @pytest.mark.parametrize(("rows", "held_out"), [(200, 20), (24, 2), (16, 1), (2, 1), (1, 0)])
    def test_a_tenth_is_held_out_without_a_validation_file(
        self, tmp_path: Path, tiny_phi: Path, rows: int, held_out: int
    ) -> None:
        data = render(tmp_path, tiny_phi, MANY[:rows])
        assert (len(data.training), len(data.held_out)) == (rows - held_out, held_out)

    def test_the_same_rows_are_held_out_whatever_their_order(self, tmp_path: Path, tiny_phi: Path) -> None:
        def held_out(lines: list[dict[str, str]]) -> set[str]:
            return {lines[line - 1]["prompt"] for line in render(tmp_path, tiny_phi, lines).held_out.lines.tolist()}

        assert held_out(MANY) == held_out(MANY[::-1])

    def test_the_account_says_how_many_are_held_out(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, MANY)
        assert data.summary.sentence(0).endswith(f"; {len(data.held_out)} examples held out to be scored")
        assert "held out" not in render(tmp_path, tiny_phi, MANY, validation=MANY[:7]).summary.sentence(0)

    def test_equal_prompts_are_on_one_side(self, tmp_path: Path, tiny_phi: Path) -> None:
        twice = [line | {"completion": f"{line['completion']}{mark}"} for line in MANY for mark in ".!"]
        data = render(tmp_path, tiny_phi, twice)

        def prompts(lines: np.ndarray) -> set[str]:
            return {twice[line - 1]["prompt"] for line in lines.tolist()}

        assert not prompts(data.training.lines) & prompts(data.held_out.lines)

    def test_of_one_prompt_none_is_held_out(self, tmp_path: Path, tiny_phi: Path) -> None:
        assert len(render(tmp_path, tiny_phi, [ONE] * 5).training) == 5

    def test_it_is_the_same_whatever_the_seed(self, tmp_path: Path, tiny_phi: Path) -> None:
        lines = {tuple(render(tmp_path, tiny_phi, MANY, seed=seed).held_out.lines.tolist()) for seed in range(3)}
        assert len(lines) == 1

    def test_a_validation_file_is_used_instead(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, MANY, validation=MANY[:7])
        assert (len(data.training), len(data.held_out)) == (200, 7)

    def test_a_validation_example_that_is_too_long_is_named_and_not_scored(
        self, tmp_path: Path, tiny_phi: Path
    ) -> None:
        data = render(tmp_path, tiny_phi, MANY, validation=[MANY[0], {"prompt": "x" * 200, "completion": "y"}])
        assert (len(data.held_out), data.unscored_lines) == (1, (2,))


class TestAccount:
    def test_counts_tokens_and_names_dropped_lines(self, tmp_path: Path, tiny_phi: Path) -> None:
        lines = [ONE, {"prompt": "x" * 200, "completion": "y"}, ONE]
        summary = render(tmp_path, tiny_phi, lines, validation=[]).summary
        assert (summary.examples, summary.completion_tokens, summary.closing_tokens, summary.prompt_tokens) == (
            2,
            4,
            2,
            4,
        )
        assert summary.dropped_lines == [2]

    def test_answer_tokens_that_are_not_trained_are_no_prompt(self, tmp_path: Path, tiny_phi: Path) -> None:
        masked = {"prompt": "ab", "completion": "cdef", "mask_spans": [[1, 3]]}
        summary = render(tmp_path, tiny_phi, [masked], validation=[]).summary
        assert summary.sentence(0) == (
            "2 completion tokens of 1 example, 1 closing token; 2 prompt tokens seen, weight 0; "
            "2 answer tokens seen, weight 0"
        )

    def test_prompts_that_were_cut_are_named(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, [ONE], validation=[], max_length=4, over_length="truncate_prompt")
        assert data.summary.sentence(0).endswith("; 1 prompt token cut off in 1 example (line 1)")

    def test_names_examples_whose_weights_are_all_zero(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, [_chat(0), _chat(1)], validation=[])
        assert data.training.lines.tolist() == [2]
        assert "1 example left out because all weights are 0 (line 1)" in data.summary.sentence(0)


class TestProblems:
    def test_no_trained_tokens(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(NoTrainedTokens) as caught:
            render(tmp_path, tiny_phi, [_chat(0), _chat(0)], validation=[])
        assert caught.value.lines == (1, 2)

    def test_only_prompt_tokens_trained(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(NoTrainedTokens):
            render(tmp_path, tiny_phi, [_chat(0)], validation=[], prompt_loss_weight=0.5)

    def test_closing_tokens_that_are_not_trained(self, tmp_path: Path, tiny_phi: Path) -> None:
        class Forgetful(Renderer):
            def example(self, example: Example) -> RenderedExample:
                rendered = super().example(example)
                return replace(rendered, segments=rendered.segments[:-1])

        with pytest.raises(EndNeverTrained):
            render(tmp_path, tiny_phi, [ONE], validation=[], renderer=Forgetful)

    def test_all_dropped(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(AllExamplesDropped, match="line 1") as caught:
            render(tmp_path, tiny_phi, [ONE], validation=[], max_length=4)
        assert caught.value.lines == (1,)

    def test_over_length_as_an_error_names_the_line(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(ExampleOverLength) as caught:
            render(tmp_path, tiny_phi, [ONE, {"prompt": "abc", "completion": "de"}], max_length=5, over_length="error")
        assert caught.value.lines == (2,)

    def test_a_prompt_is_cut_from_the_left_and_the_completion_never(self, tmp_path: Path, tiny_phi: Path) -> None:
        data = render(tmp_path, tiny_phi, [ONE], validation=[], max_length=4, over_length="truncate_prompt")
        assert data.training[0].ids_T.tolist() == [*b"bcd", END_OF_TEXT]

    def test_max_length_is_held_to_the_context(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(AllExamplesDropped):
            render(tmp_path, tiny_phi, [{"prompt": "x" * 300, "completion": "y"}], validation=[], max_length=10_000)

    def test_a_line_that_is_no_example(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(ExampleInvalid) as caught:
            render(tmp_path, tiny_phi, [ONE, {"prompt": 3, "completion": "x"}], validation=[])
        assert caught.value.lines == (2,)

    def test_a_column_that_the_prompt_format_wants_is_missing(self, tmp_path: Path, tiny_phi: Path) -> None:
        wanted = PromptFormat(prompt="{{question}}", completion="{{answer}}")
        with pytest.raises(ExampleInvalid):
            render(tmp_path, tiny_phi, [{"question": "q"}], validation=[], prompt_format=wanted)


class TestDigest:
    def test_is_equal_for_equal_data(self, tmp_path: Path, tiny_phi: Path) -> None:
        first = render(tmp_path, tiny_phi, MANY[:9], validation=[])
        assert first.digest == render(tmp_path, tiny_phi, MANY[:9], validation=[]).digest

    def test_changes_with_a_weight(self, tmp_path: Path, tiny_phi: Path) -> None:
        first = render(tmp_path, tiny_phi, MANY[:9], validation=[])
        second = render(tmp_path, tiny_phi, MANY[:9], validation=[], prompt_loss_weight=0.1)
        assert first.digest != second.digest


def _chat(weight: float) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": weight}]}
