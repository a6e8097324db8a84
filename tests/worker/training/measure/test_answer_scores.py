"""What held-out answers are worth by a job's metrics."""

import pytest

from worker.trainer_process.messages import Evaluated, HeldOutAnswer, HeldOutAnswers
from worker.training.measure.answer_scores import mean_scores

EVALUATED = Evaluated(step=1, loss=0.25, token_accuracy=0.75, tokens=4, examples=2)


def answer(got: str, expected: str = " yes", *, stopped: bool | None = True) -> HeldOutAnswer:
    exact = None if stopped is None else got == expected
    return HeldOutAnswer(prompt="p", expected=expected, got=got, stopped=stopped, exact=exact)


ANSWERS = HeldOutAnswers(
    step=1, answers=(answer(" yes"), answer("no", stopped=False), answer("yes", stopped=None), answer("yes"))
)


def test_are_means_over_the_answers_that_can_be_judged() -> None:
    scores = mean_scores(("exact_match", "stop_rate", "length_ratio"), EVALUATED, ANSWERS)
    assert scores == {
        "exact_match": pytest.approx(2 / 3),  # white space at the ends does not count
        "stop_rate": pytest.approx(2 / 3),
        "length_ratio": pytest.approx((1 + 2 / 4 + 3 / 4) / 3),
    }


def test_of_likelihood_are_those_of_all_held_out_examples() -> None:
    scores = mean_scores(("nats_per_token", "token_accuracy"), EVALUATED, ANSWERS)
    assert scores == {"nats_per_token": 0.25, "token_accuracy": 0.75}


def test_that_no_trainer_can_score_by_are_left_out() -> None:
    assert mean_scores(("label_accuracy", "reference_probability"), EVALUATED, ANSWERS) == {}


def test_of_nothing_are_none() -> None:
    assert mean_scores(("exact_match", "numeric_match"), EVALUATED, None) == {
        "exact_match": None,
        "numeric_match": None,
    }
    assert mean_scores(("numeric_match",), EVALUATED, ANSWERS) == {"numeric_match": None}
