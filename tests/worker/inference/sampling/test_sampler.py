"""Sampling: what each parameter leaves to choose from, that draws follow the distribution, which logprobs are given."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from core.serving.generation import SamplingParams
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from worker.inference.sampling.sampler import NUCLEUS_HEAD, SCORED_ROWS, Choice, RowSampler, sample, score_prompt

CPU = torch.device("cpu")
PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = PROBABILITIES.log() + 3

Make = Callable[..., RowSampler]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a sampler from parameters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    tokenizer = TextTokenizer.from_folder(folder)

    def make(**params: Any) -> RowSampler:
        return RowSampler(SamplingParams(**params), (), tokenizer, CPU, None)

    return make


def draw(make: Make, logits_V: torch.Tensor, times: int, **params: Any) -> Counter[int]:
    sampler = make(**{"seed": 7, "temperature": 1.0, **params})
    return Counter(sample([sampler], logits_V[None])[0].token_id for _ in range(times))


def test_temperature_zero_takes_the_likeliest(make: Make) -> None:
    assert draw(make, LOGITS, 20, temperature=0) == {1: 20}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES.square()),
        ({"temperature": 2.0}, PROBABILITIES.sqrt()),
        ({"top_k": 3}, PROBABILITIES * torch.tensor([0, 1, 0, 1, 1])),
        ({"top_p": 0.9}, PROBABILITIES * torch.tensor([0, 1, 1, 1, 1])),
        ({"min_p": 0.3}, PROBABILITIES * torch.tensor([0, 1, 0, 1, 1])),
        ({"logit_bias": {0: 2.0}}, PROBABILITIES * torch.tensor([2.0, 0, 0, 0, 0]).exp()),
        # the temperature scales before min_p measures: square roots are closer to each other
        ({"temperature": 2.0, "min_p": 0.3}, PROBABILITIES.sqrt()),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(make: Make, params: dict[str, Any], expected: torch.Tensor) -> None:
    times = 2000
    expected = expected / expected.sum() * times
    drawn = draw(make, LOGITS, times, **params)
    assert all(expected[token_id] > 0 for token_id in drawn)
    chi_square = sum((drawn[n] - count) ** 2 / count for n, count in enumerate(expected.tolist()) if count)
    assert chi_square < 18.5, "what 5 outcomes stay below 999 times in 1000"


def test_a_large_vocabulary_is_drawn_from_evenly(make: Make) -> None:
    drawn = draw(make, torch.zeros(50_000), 1000)
    quarters = Counter(token_id // 12_500 for token_id in drawn.elements())
    assert sum((count - 250) ** 2 / 250 for count in quarters.values()) < 16.3, "999 times in 1000"
    assert len(drawn) > 950


@pytest.mark.parametrize("temperature", [1e-38, 5e-324])
def test_a_tiny_temperature_is_greedy_rather_than_an_overflow(make: Make, temperature: float) -> None:
    assert draw(make, LOGITS * 100, 20, temperature=temperature) == {1: 20}
    assert draw(make, LOGITS * 100, 20, temperature=temperature, top_p=0.9, min_p=0.1) == {1: 20}


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
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.49}, {1, 3, 4}),
        ({"min_p": 0.51}, {1, 3}),
        ({"min_p": 0.2, "top_p": 0.6}, {1, 3}),
    ],
)
def test_top_k_top_p_and_min_p_leave_the_head(make: Make, params: dict[str, Any], left: set[int]) -> None:
    assert set(draw(make, LOGITS, 1000, **params)) == left


def test_a_flat_distribution_keeps_its_nucleus_whole(make: Make) -> None:
    size = 4 * NUCLEUS_HEAD
    drawn = draw(make, torch.arange(size) * -1e-6, 300, top_p=0.75)
    assert max(drawn) > 2 * NUCLEUS_HEAD, "more was left to choose from than the selected head"
    assert max(drawn) < 0.76 * size


def test_a_nucleus_of_equals_holds_no_more_than_its_share(make: Make) -> None:
    size = 4 * NUCLEUS_HEAD
    assert max(draw(make, torch.zeros(size), 300, top_p=0.75)) < 0.76 * size


def test_top_k_of_one_is_greedy_also_among_equals(make: Make) -> None:
    logits_BV = torch.randint(0, 4, (50, 30), generator=torch.Generator().manual_seed(1)).float()
    one, greedy = make(temperature=1.5, top_k=1), make()
    assert one.is_greedy
    assert sample([one] * 50, logits_BV) == sample([greedy] * 50, logits_BV)


def test_a_seed_repeats_and_another_differs(make: Make) -> None:
    def first_draws(seed: int) -> list[int]:
        sampler = make(seed=seed, temperature=1.0)
        return [sample([sampler], torch.zeros(1, 1000))[0].token_id for _ in range(10)]

    assert first_draws(5) == first_draws(5)
    assert first_draws(5) != first_draws(6)


def test_without_a_seed_every_request_differs(make: Make) -> None:
    def first_draws() -> list[int]:
        sampler = make(temperature=1.0)
        return [sample([sampler], torch.zeros(1, 1000))[0].token_id for _ in range(10)]

    assert first_draws() != first_draws()


ROWS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "seed": 1, "top_p": 0.9},
    {"temperature": 1.3, "seed": 2, "top_k": 40, "min_p": 0.01, "top_logprobs": 3},
    {"repetition_penalty": 1.3, "logit_bias": {5: 1.5}},
    {"temperature": 1.0, "seed": 3, "frequency_penalty": 1.0, "presence_penalty": -0.5},
    {"top_logprobs": 20},
]


def completions(make: Make, rows: list[dict[str, Any]], logits_TBV: torch.Tensor, top: int = 0) -> list[list[Choice]]:
    """Let rows choose side by side from their logits, step after step; give each row's choices."""
    samplers = [make(**{"top_logprobs": top, **row}) for row in rows]
    steps = []
    for logits_BV in logits_TBV:
        steps.append(sample(samplers, logits_BV))
        for sampler, choice in zip(samplers, steps[-1], strict=True):
            sampler.accept(choice.token_id)
    return [list(row) for row in zip(*steps, strict=True)]


def test_a_row_chooses_the_same_alone_and_in_any_batch(make: Make) -> None:
    logits_TBV = torch.randn(6, len(ROWS), 3000, generator=torch.Generator().manual_seed(4)) * 3
    together = completions(make, ROWS, logits_TBV)
    backwards = completions(make, ROWS[::-1], logits_TBV.flip(1))
    assert backwards[::-1] == together
    for number, row in enumerate(ROWS):
        assert completions(make, [row], logits_TBV[:, number : number + 1]) == [together[number]]


def test_asking_for_logprobs_changes_no_choice(make: Make) -> None:
    logits_TBV = torch.randn(6, len(ROWS), 3000, generator=torch.Generator().manual_seed(5))
    rows = [{**row, "top_logprobs": 0} for row in ROWS]
    silent = completions(make, rows, logits_TBV)
    talking = completions(make, [{**row, "top_logprobs": number} for number, row in enumerate(rows)], logits_TBV)
    assert [[choice.token_id for choice in row] for row in silent] == [[c.token_id for c in row] for row in talking]


def test_logprobs_are_of_the_raw_distribution(make: Make) -> None:
    sampler = make(temperature=0.1, logit_bias={0: 100.0}, top_k=2, seed=1, top_logprobs=2)
    (choice,) = sample([sampler], LOGITS[None])
    assert choice.token_id == 0
    assert choice.logprob == pytest.approx(float(PROBABILITIES[0].log()))
    assert [token_id for token_id, _ in choice.top] == [1, 3]
    assert [logprob for _, logprob in choice.top] == pytest.approx(PROBABILITIES[[1, 3]].log().tolist())


def test_each_row_is_told_as_many_of_the_likeliest_as_it_asked(make: Make) -> None:
    logits_BV = torch.randint(0, 3, (4, 50), generator=torch.Generator().manual_seed(6)).float()
    few, many = (sample([make(top_logprobs=n) for n in tops], logits_BV) for tops in ((0, 1, 2, 3), (20, 20, 20, 20)))
    assert [choice.top for choice in few] == [choice.top[:n] for n, choice in enumerate(many)], "also among equals"
    assert [len(choice.top) for choice in many] == [20] * 4


def test_a_vocabulary_smaller_than_what_is_asked_is_told_whole(make: Make) -> None:
    (choice,) = sample([make(top_logprobs=20)], LOGITS[None])
    assert len(choice.top) == 5


def test_a_prompt_is_scored_as_choosing_its_tokens_would_be() -> None:
    places = 2 * SCORED_ROWS + 3
    logits_TV = torch.randn(places, 40, generator=torch.Generator().manual_seed(8))
    next_ids = torch.randint(0, 40, (places,), generator=torch.Generator().manual_seed(9)).tolist()
    choices = score_prompt(logits_TV, next_ids, top=2)
    assert [choice.token_id for choice in choices] == next_ids
    for choice, logits_V in zip(choices, logits_TV, strict=True):
        probabilities = logits_V.softmax(0)
        assert choice.logprob == pytest.approx(float(probabilities[choice.token_id].log()), abs=1e-5)
        assert [token_id for token_id, _ in choice.top] == probabilities.topk(2).indices.tolist()
    assert score_prompt(logits_TV[:1], next_ids[:1], top=0)[0].top == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_a_hundred_forces_or_forbids(make: Make, temperature: float) -> None:
    assert draw(make, LOGITS, 50, temperature=temperature, logit_bias={0: 100.0}) == {0: 50}
    assert set(draw(make, LOGITS, 200, temperature=temperature, logit_bias={1: -100.0, 3: -100.0})) <= {0, 2, 4}


def test_penalties_weigh_what_was_taken(make: Make) -> None:
    sampler = make(presence_penalty=1.0)
    assert not sampler.is_plain
    first = sample([sampler], LOGITS[None])[0].token_id
    assert sample([sampler], LOGITS[None])[0].token_id == first, "it has not been accepted yet"
    sampler.accept(first)
    assert (first, sample([sampler], LOGITS[None])[0].token_id) == (1, 3)


def test_the_logits_stay_as_they_are(make: Make) -> None:
    logits_BV = LOGITS.repeat(3, 1)
    samplers = [
        make(temperature=1.0, seed=1),
        make(logit_bias={1: -100.0}),
        make(repetition_penalty=2.0, temperature=1.0),
    ]
    for sampler in samplers:
        sampler.accept(1)
    sample(samplers, logits_BV)
    assert torch.equal(logits_BV, LOGITS.repeat(3, 1))


def test_only_a_row_without_changes_and_chance_is_plain(make: Make) -> None:
    assert make().is_plain
    assert make(top_logprobs=3, stop=("x",)).is_plain
    for params in ({"temperature": 1.0}, {"logit_bias": {1: 1.0}}, {"repetition_penalty": 1.1}):
        assert not make(**params).is_plain
