"""Penalties: the formulas, by hand and against transformers."""

from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from core.serving.generation import SamplingParams
from worker.inference.sampling.penalties import Penalties

CPU = torch.device("cpu")


def penalised(logits: list[float], prompt: tuple[int, ...], answer: tuple[int, ...], **params: Any) -> list[float]:
    penalties = Penalties(SamplingParams(**params), prompt, CPU)
    for token_id in answer:
        penalties.accept(token_id)
    logits_V = torch.tensor(logits)
    penalties.apply(logits_V)
    values: list[float] = logits_V.tolist()
    return values


def test_repetition_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    assert penalised([4.0, -1.0, 3.0, -2.0], (0, 1, 0), (1,), repetition_penalty=2.0) == [2.0, -2.0, 3.0, -2.0]


def test_repetition_counts_the_answer_as_well_as_the_prompt() -> None:
    assert penalised([4.0, -1.0, 3.0, -2.0], (0,), (3, 3), repetition_penalty=2.0) == [2.0, -1.0, 3.0, -4.0]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
def test_repetition_is_that_of_transformers(penalty: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits_V = torch.randn(200, generator=generator) * 5
    seen = torch.randint(0, 200, (1, 60), generator=generator)
    theirs = RepetitionPenaltyLogitsProcessor(penalty=penalty)(seen, logits_V[None].clone())[0]
    prompt, answer = tuple(seen[0, :40].tolist()), tuple(seen[0, 40:].tolist())
    assert penalised(logits_V.tolist(), prompt, answer, repetition_penalty=penalty) == theirs.tolist()


def test_frequency_counts_each_time_and_presence_once_and_neither_the_prompt() -> None:
    given = {"frequency_penalty": 0.5, "presence_penalty": 0.25}
    assert penalised([1.0, 1.0, 1.0], (2, 2), (0, 1, 0), **given) == [-0.25, 0.25, 1.0]


def test_negative_penalties_encourage() -> None:
    given = {"frequency_penalty": -0.5, "presence_penalty": -1.0}
    assert penalised([1.0, 1.0], (), (0, 0), **given) == [3.0, 1.0]


def test_repetition_comes_before_frequency() -> None:
    assert penalised([4.0], (), (0,), repetition_penalty=2.0, frequency_penalty=1.0) == [1.0]


def test_tokens_are_counted_between_uses() -> None:
    penalties = Penalties(SamplingParams(repetition_penalty=2.0), (0,), CPU)
    first, second = torch.ones(2), torch.ones(2)
    penalties.apply(first)
    penalties.accept(1)
    penalties.apply(second)
    assert (first.tolist(), second.tolist()) == ([0.5, 1.0], [0.5, 0.5])


def test_only_penalties_that_do_something_are_asked() -> None:
    assert not Penalties.are_asked(SamplingParams(temperature=1.0))
    for name, value in (("repetition_penalty", 1.1), ("frequency_penalty", 0.1), ("presence_penalty", -0.1)):
        assert Penalties.are_asked(SamplingParams.model_validate({name: value}))
