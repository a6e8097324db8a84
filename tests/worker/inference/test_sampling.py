"""Choosing a token: what each parameter leaves to choose from, and that draws follow the distribution."""

from collections import Counter
from typing import Any

import pytest
import torch

from core.generation import SamplingParams
from worker.inference.sampling import NUCLEUS_HEAD, Sampler

CPU = torch.device("cpu")
PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])


def draw(logits_V: torch.Tensor, times: int, **params: Any) -> Counter[int]:
    sampler = Sampler(SamplingParams(**{"seed": 7, "temperature": 1.0, **params}), CPU)
    return Counter(sampler.choose(logits_V) for _ in range(times))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw(PROBABILITIES.log(), 20, temperature=0) == {1: 20}


def test_draws_follow_the_distribution() -> None:
    drawn = draw(PROBABILITIES.log(), 8_000)
    for token_id, probability in enumerate(PROBABILITIES.tolist()):
        assert drawn[token_id] / 8_000 == pytest.approx(probability, abs=0.025)


def test_temperature_sharpens_the_distribution() -> None:
    expected = PROBABILITIES.square() / PROBABILITIES.square().sum()
    drawn = draw(PROBABILITIES.log(), 8_000, temperature=0.5)
    for token_id, probability in enumerate(expected.tolist()):
        assert drawn[token_id] / 8_000 == pytest.approx(probability, abs=0.025)


def test_a_tiny_temperature_is_greedy_rather_than_an_overflow() -> None:
    assert draw(PROBABILITIES.log() * 100, 20, temperature=1e-38) == {1: 20}


@pytest.mark.parametrize(
    ("params", "left"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.6}, {1, 3}),
        ({"top_p": 0.8}, {1, 3, 4}),
        # of the two that top_k leaves, the first holds .4 / .65 of the mass
        ({"top_k": 2, "top_p": 0.6}, {1}),
        ({"top_p": 1e-9}, {1}),
    ],
)
def test_top_k_and_top_p_leave_the_head(params: dict[str, Any], left: set[int]) -> None:
    assert set(draw(PROBABILITIES.log(), 2000, **params)) == left


def test_a_flat_distribution_keeps_its_nucleus_whole() -> None:
    size = 4 * NUCLEUS_HEAD
    drawn = draw(torch.arange(size) * -1e-6, 300, top_p=0.75)
    assert max(drawn) > 2 * NUCLEUS_HEAD, "more was left to choose from than the selected head"
    assert max(drawn) < 0.76 * size


def test_a_seed_repeats_and_another_differs() -> None:
    def first_draws(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed, temperature=1.0), CPU)
        return [sampler.choose(PROBABILITIES.log()) for _ in range(30)]

    assert first_draws(5) == first_draws(5)
    assert first_draws(5) != first_draws(6)


def test_without_a_seed_every_request_differs() -> None:
    def first_draws() -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0), CPU)
        return [sampler.choose(torch.zeros(1000)) for _ in range(10)]

    assert first_draws() != first_draws()
