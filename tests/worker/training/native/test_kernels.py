"""Each kernel is torch's operation and its gradient, at each level of CPU that this machine has."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from worker.training.native.check import find_difference
from worker.training.native.kernels import Term, TrainerKernels


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_all_are_what_torch_computes(kernels: TrainerKernels) -> None:
    assert find_difference(kernels) is None


@pytest.mark.parametrize(
    ("method", "checked_as"),
    [
        ("product", "product"),
        ("rms_norm", "rms_norm"),
        ("rms_norm_back", "rms_norm"),
        ("gated_silu", "gated_silu"),
        ("gated_silu_back", "gated_silu"),
        ("rotate", "rotate"),
        ("attention", "attention"),
        ("attention_back", "attention"),
    ],
)
def test_one_that_computes_something_else_is_named(
    kernels: TrainerKernels, monkeypatch: pytest.MonkeyPatch, method: str, checked_as: str
) -> None:
    usual = getattr(TrainerKernels, method)

    def slightly_wrong(*arguments: Any, **named: Any) -> Any:
        given = usual(*arguments, **named)
        last = given[-1] if isinstance(given, tuple) and method.endswith("_back") else given
        result = last[0] if isinstance(last, tuple) else last
        result[(*[0] * (result.ndim - 1), 3)] += 0.01
        return given

    monkeypatch.setattr(TrainerKernels, method, slightly_wrong)
    assert find_difference(kernels) == checked_as


def test_a_softmax_that_is_slightly_wrong_is_named(kernels: TrainerKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrainerKernels.softmax_gradient

    def slightly_wrong(self: TrainerKernels, logits_KV: torch.Tensor, *others: torch.Tensor) -> None:
        usual(self, logits_KV, *others)
        logits_KV[3, 3] += 0.01

    monkeypatch.setattr(TrainerKernels, "softmax_gradient", slightly_wrong)
    assert find_difference(kernels) == "softmax_gradient"


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(1, 1, 1), (6, 320, 16), (700, 641, 33), (5, 3, 700), (130, 3000, 70), (130, 3000, 5)],
)
def test_products_of_any_size_are_torchs(kernels: TrainerKernels, rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(rows, depth), torch.randn(columns, depth)
    found = kernels.product(torch.full((rows, columns), torch.nan), Term(left, right.t(), -2.0))
    wanted = -2.0 * left @ right.t()
    # a sum's error is as large as its terms
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_many_terms_are_added_up_whatever_lies_between_their_numbers(kernels: TrainerKernels) -> None:
    torch.manual_seed(0)
    wide = torch.randn(50, 3 * 40)
    terms = [Term(wide[:, first : first + 40], torch.randn(20, 40).t(), scale=first + 1.0) for first in (0, 40, 80)]
    row = Term(torch.ones(1, 1).expand(50, 1), torch.randn(1, 20))
    found = kernels.product(torch.empty(50, 60)[:, 20:40], *terms, row)
    expected = sum((scale * left @ right for left, right, scale in terms), row.right.expand(50, 20))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_a_logit_that_is_no_number_makes_the_loss_none(kernels: TrainerKernels) -> None:
    logits, nll, hit = torch.randn(2, 40), torch.empty(2), torch.empty(2, dtype=torch.bool)
    logits[1, 7] = torch.nan
    kernels.softmax_gradient(logits, torch.tensor([3, 3]), torch.ones(2), nll, hit)
    assert nll.isfinite().tolist() == [True, False]
    assert logits.isfinite().all(dim=1).tolist() == [True, False]


def test_logits_far_apart_overflow_nothing(kernels: TrainerKernels) -> None:
    logits, nll, hit = torch.tensor([[-1e4, 1e4, 0.0]]), torch.empty(1), torch.empty(1, dtype=torch.bool)
    kernels.softmax_gradient(logits, torch.tensor([0]), torch.ones(1), nll, hit)
    assert nll.item() == 2e4
    assert not hit.item()
    torch.testing.assert_close(logits, torch.tensor([[-1.0, 1.0, 0.0]]))
