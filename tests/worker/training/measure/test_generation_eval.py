from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from core.text.tokenizer import TextTokenizer
from tests.harness.models.tiny_models import CONTEXT_TOKENS
from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import Line, never_stop, render, train, write_run
from worker.trainer_process.messages import Evaluated, HeldOutAnswer, HeldOutAnswers, StepDone
from worker.training.data.examples import ExampleSet
from worker.training.measure.generation_eval import (
    MARGIN_TOKENS,
    MAX_NEW_TOKENS,
    MAX_QUESTIONS,
    GenerationEvaluator,
    Question,
    choose_questions,
)
from worker.training.process.stopping import Stopped

PROMPTS = ("a", "Please add. 3+4=", "words of some length, then", "b?")


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> None:
    """Answers as long as users get them."""


@pytest.fixture
def tokenizer(tiny_phi: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(tiny_phi)


def _held_out(folder: Path, base: Path, *lines: Line) -> ExampleSet:
    return render(folder, base, [{"prompt": "x", "completion": "y"}], validation=lines).held_out


def _questions(tokenizer: TextTokenizer) -> list[Question]:
    return [Question(tuple(tokenizer.encode(prompt)), tuple(tokenizer.encode(" 1"))) for prompt in PROMPTS]


def _answers(evaluated: HeldOutAnswers | None) -> list[str]:
    assert evaluated is not None
    return [answer.got for answer in evaluated.answers]


class TestGenerationEvaluator:
    @pytest.mark.parametrize("token_budget", [10_000, 1], ids=["together", "one by one"])
    def test_answers_as_transformers_does_for_each_prompt_alone(
        self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer, token_budget: int
    ) -> None:
        model = make_model(tiny_phi, random_b=False)  # which is the base itself
        questions = _questions(tokenizer)
        reference: Any = AutoModelForCausalLM.from_pretrained(tiny_phi, dtype=torch.float32).eval()
        expected = []
        for question in questions:
            ids = reference.generate(
                torch.tensor([question.prompt_ids]),
                max_new_tokens=question.limit,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=tokenizer.eos_id,
                suppress_tokens=list(range(tokenizer.vocab_size, reference.config.vocab_size)),
            )[0, len(question.prompt_ids) :].tolist()
            expected.append(tokenizer.decode([token for token in ids if token != tokenizer.eos_id]))
        evaluated = GenerationEvaluator(model, tokenizer, questions, token_budget).evaluate(3, never_stop)
        assert _answers(evaluated) == expected
        assert evaluated is not None
        assert evaluated.step == 3

    def test_an_adapter_changes_the_answers(
        self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer
    ) -> None:
        questions = _questions(tokenizer)
        plain, adapted = (
            _answers(
                GenerationEvaluator(make_model(tiny_phi, random_b=random_b), tokenizer, questions, 500).evaluate(
                    0, never_stop
                )
            )
            for random_b in (False, True)
        )
        assert plain != adapted

    def test_leaves_the_model_and_the_random_numbers_as_they_were(
        self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer
    ) -> None:
        model = make_model(tiny_phi)
        before = torch.get_rng_state()
        GenerationEvaluator(model, tokenizer, _questions(tokenizer), 500).evaluate(0, never_stop)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.peft.training
        assert all(parameter.grad is None for parameter in model.parameters.values())

    def test_a_stop_is_heard_between_two_tokens(
        self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer
    ) -> None:
        model, calls = make_model(tiny_phi), iter(range(3))

        def check_stop() -> None:
            if next(calls) == 2:
                raise Stopped

        with pytest.raises(Stopped):
            GenerationEvaluator(model, tokenizer, _questions(tokenizer), 10_000).evaluate(0, check_stop)
        assert model.peft.training

    def test_without_questions_there_are_no_answers(
        self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer
    ) -> None:
        assert GenerationEvaluator(make_model(tiny_phi), tokenizer, (), 500).evaluate(0, never_stop) is None


class _Scripted(GenerationEvaluator):
    """Answers from a script instead of a model."""

    def _answer(self, questions: Any, check_stop: Any) -> list[list[int]]:
        return [SCRIPT[question.prompt_ids] for question in questions]


SCRIPT: dict[tuple[int, ...], list[int]] = {}


class TestComparison:
    @pytest.fixture
    def ask(self, tiny_phi: Path, make_model: MakeModel, tokenizer: TextTokenizer) -> Iterator[Any]:
        def compare(expected: str, answer: str, *, stops: bool) -> HeldOutAnswer:
            question = Question((1,), tuple(tokenizer.encode(expected)))
            SCRIPT[question.prompt_ids] = [*tokenizer.encode(answer), *[tokenizer.eos_id] * stops]
            evaluated = _Scripted(make_model(tiny_phi), tokenizer, [question], 500).evaluate(0, never_stop)
            assert evaluated is not None
            [compared] = evaluated.answers
            return compared

        yield compare
        SCRIPT.clear()

    @pytest.mark.parametrize(
        ("answer", "stops", "expected"),
        [(" 7", True, (True, True)), (" 7", False, (False, False)), (" 8", True, (True, False))],
    )
    def test_exact_is_the_completion_itself_and_nothing_behind_it(
        self, ask: Any, answer: str, stops: bool, expected: tuple[bool, bool]
    ) -> None:
        compared = ask(" 7", answer, stops=stops)
        assert (compared.stopped, compared.exact) == expected
        assert (compared.expected, compared.got) == (" 7", answer)

    def test_a_completion_longer_than_an_answer_may_be_is_shown_but_not_judged(self, ask: Any) -> None:
        answer = ask("y" * MAX_NEW_TOKENS, "y" * MAX_NEW_TOKENS, stops=False)
        assert (answer.stopped, answer.exact) == (None, None)
        evaluated = HeldOutAnswers(step=0, answers=(answer,))
        assert (evaluated.exact_match, evaluated.stop_rate) == (None, None)

    def test_shares_are_of_what_was_judged(self, ask: Any) -> None:
        answers = ask(" 7", " 7", stops=True), ask(" 7", " 8", stops=True), ask("y" * 99, "y", stops=True)
        evaluated = HeldOutAnswers(step=0, answers=answers)
        assert (evaluated.exact_match, evaluated.stop_rate) == (0.5, 1.0)


class TestQuestions:
    def test_are_the_first_held_out_prompts_with_their_completions(
        self, tmp_path: Path, tiny_phi: Path, tokenizer: TextTokenizer
    ) -> None:
        lines = [{"prompt": f"{number}:", "completion": f" {number}"} for number in range(MAX_QUESTIONS + 3)]
        questions = choose_questions(_held_out(tmp_path, tiny_phi, *lines), tokenizer, CONTEXT_TOKENS)
        texts = [
            (tokenizer.decode(question.prompt_ids), tokenizer.decode(question.expected_ids)) for question in questions
        ]
        assert texts == [(line["prompt"], line["completion"]) for line in lines[:MAX_QUESTIONS]]
        assert questions[0].limit == len(questions[0].expected_ids) + 1 + MARGIN_TOKENS

    def test_ask_a_prompt_once(self, tmp_path: Path, tiny_phi: Path, tokenizer: TextTokenizer) -> None:
        lines = [{"prompt": "same", "completion": completion} for completion in (" a", " b")]
        [question] = choose_questions(_held_out(tmp_path, tiny_phi, *lines), tokenizer, CONTEXT_TOKENS)
        assert tokenizer.decode(question.expected_ids) == " a"

    def test_leave_out_a_prompt_after_which_no_answer_fits(
        self, tmp_path: Path, tiny_phi: Path, tokenizer: TextTokenizer
    ) -> None:
        held_out = _held_out(tmp_path, tiny_phi, {"prompt": "p" * 90, "completion": "c"})
        room = 90 + 1 + 1 + MARGIN_TOKENS
        assert len(choose_questions(held_out, tokenizer, room)) == 1
        assert choose_questions(held_out, tokenizer, room - 1) == []

    def test_end_at_the_first_answer_of_a_conversation(self, tokenizer: TextTokenizer) -> None:
        ids = np.array([1, 2, 3, tokenizer.eos_id, 4, 5, tokenizer.eos_id], dtype=np.int32)
        answers = np.array([0, 0, 1, 1, 0, 1, 1], dtype=np.bool_)
        [question] = choose_questions(_one(ids, answers), tokenizer, CONTEXT_TOKENS)
        assert question == Question((1, 2), (3,))

    def test_leave_out_an_answer_that_is_masked_in_part(self, tokenizer: TextTokenizer) -> None:
        ids = np.array([1, 2, 3, 4, tokenizer.eos_id], dtype=np.int32)
        answers = np.array([0, 1, 0, 1, 1], dtype=np.bool_)
        assert choose_questions(_one(ids, answers), tokenizer, CONTEXT_TOKENS) == []


def _one(ids: np.ndarray, is_completion: np.ndarray) -> ExampleSet:
    weights = is_completion.astype(np.float32)
    return ExampleSet(ids, weights, is_completion, offsets=np.array([0, len(ids)]), lines=np.array([1]))


def test_a_run_that_learns_its_data_by_heart_answers_exactly_and_stops(tmp_path: Path, tiny_llama: Path) -> None:
    lines = [{"prompt": f"{mark}:", "completion": f" {mark}{mark}"} for mark in "abcd"]
    job: dict[str, Any] = {"n_epochs": 60, "batch_size": 4, "learning_rate": 1e-2, "lora": {"rank": 16, "alpha": 32}}
    reporter = train(write_run(tmp_path / "run", tiny_llama, lines, validation=lines, **job))
    first, last = reporter.of(Evaluated)[0], reporter.of(Evaluated)[-1]
    assert (first.exact_match, last.exact_match, last.stop_rate) == (0.0, 1.0, 1.0)
    evaluated = reporter.of(HeldOutAnswers)
    assert [one.step for one in evaluated] == [one.step for one in reporter.of(Evaluated)]
    assert [answer.got for answer in evaluated[-1].answers] == [line["completion"] for line in lines]
    assert reporter.of(StepDone)[-1].step == evaluated[-1].step
