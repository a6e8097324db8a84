"""Each kernel is torch's operation and its gradient, at each level of CPU that this machine has."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from worker.training.native.check import find_difference
from worker.training.native.kernels import OwnTerm, Term, TrainerKernels


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


def _stretched(seed: int, lengths: tuple[int, ...], depths: tuple[int, ...]) -> tuple[torch.Tensor, list[OwnTerm]]:
    """Draw the rows of some stretches, and a term of each one's own; of depth 0 it has none."""
    generator = torch.Generator().manual_seed(seed)
    own, end = [], 0
    for length, depth in zip(lengths, depths, strict=True):
        rows = slice(end, end + length)
        left, right = (torch.randn(size, generator=generator) for size in ((length, depth), (depth, COLUMNS)))
        own.append(OwnTerm(rows, Term(left, right, 0.3) if depth else None))
        end = rows.stop
    return torch.randn(end, DEPTH, generator=generator), own


COLUMNS, DEPTH = 70, 1500  # more than one block of either


@pytest.mark.parametrize("lengths", [(1,), (16, 48), (7, 1, 130, 90)])
def test_each_stretch_of_rows_has_its_own_term_added(kernels: TrainerKernels, lengths: tuple[int, ...]) -> None:
    left, own = _stretched(0, lengths, (3, 0, 40, 330)[: len(lengths)])
    right = torch.randn(COLUMNS, DEPTH, generator=torch.Generator().manual_seed(1))
    found = kernels.product(left.new_full((len(left), COLUMNS), torch.nan), Term(left, right.t()), own=own)
    added = [
        torch.zeros(n, COLUMNS) if one.term is None else 0.3 * one.term.left @ one.term.right
        for n, one in zip(lengths, own, strict=True)
    ]
    torch.testing.assert_close(found, left @ right.t() + torch.cat(added), rtol=1e-5, atol=1e-3)


def test_a_row_is_the_same_to_the_bit_whatever_stands_beside_it(kernels: TrainerKernels) -> None:
    lengths = (20, 33, 200)
    left, own = _stretched(0, lengths, (8, 0, 16))
    right = torch.randn(COLUMNS, DEPTH, generator=torch.Generator().manual_seed(1))
    together = kernels.product(left.new_empty(len(left), COLUMNS), Term(left, right.t()), own=own)
    for one in own:
        rows = left[one.rows]
        alone = kernels.product(
            rows.new_empty(len(rows), COLUMNS), Term(rows, right.t()), own=[OwnTerm(slice(0, len(rows)), one.term)]
        )
        assert torch.equal(together[one.rows], alone)


def test_what_is_no_number_stays_in_its_own_stretch(kernels: TrainerKernels) -> None:
    left, own = _stretched(0, (9, 10, 9), (4, 4, 4))
    left[own[1].rows], own[1].term.left[:] = torch.nan, torch.inf  # type: ignore[union-attr]
    right = torch.randn(COLUMNS, DEPTH, generator=torch.Generator().manual_seed(1))
    found = kernels.product(left.new_empty(len(left), COLUMNS), Term(left, right.t()), own=own)
    assert found.isfinite().all(dim=1).tolist() == [True] * 9 + [False] * 10 + [True] * 9
