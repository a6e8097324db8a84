import itertools

import pytest
import torch
from torch import Tensor

from worker.training.model.ablations import ALL
from worker.training.model.attention import (
    LONGEST_OWN,
    Attention,
    CpuAttention,
    NativeAttention,
    SdpaAttention,
    cumulative_lengths,
    make_attention,
)
from worker.training.native.kernels import TrainerKernels

CPU = torch.device("cpu")
# more than a tile, multiples of 16 and not, equal ones, one of a single input
LENGTHS = (37, 1, 300, 16, 37, 64, 5)


def _inputs(lengths: tuple[int, ...], heads: int, key_heads: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    shapes = ((total, heads, 20), (total, key_heads, 20), (total, key_heads, 20))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def _run(attention: Attention, inputs: list[Tensor], window: int | None = None) -> list[Tensor]:
    """Give the result and the inputs' gradients."""
    result = attention(inputs[0], inputs[1], inputs[2], 0.2, window)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, grad)]


def _by_definition(lengths: tuple[int, ...], inputs: list[Tensor], window: int | None = None) -> list[Tensor]:
    """One segment and one head at a time, all scores at once."""

    def attention(
        query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        repeats = query_NAD.shape[1] // key_NGD.shape[1]
        rows = []
        for begin, end in itertools.pairwise([0, *itertools.accumulate(lengths)]):
            heads = []
            for head in range(query_NAD.shape[1]):
                scores = query_NAD[begin:end, head] @ key_NGD[begin:end, head // repeats].T * scale
                mask = torch.ones_like(scores).triu(1).bool()
                if window is not None:
                    mask |= torch.ones_like(scores).tril(-window).bool()
                heads.append(scores.masked_fill(mask, -torch.inf).softmax(1) @ value_NGD[begin:end, head // repeats])
            rows.append(torch.stack(heads, dim=1))
        return torch.cat(rows)

    return _run(attention, inputs, window)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("kind", [CpuAttention, SdpaAttention])
@pytest.mark.parametrize("window", [None, 1, 37, 300])
def test_is_causal_attention_inside_each_segment(kind: type, heads: int, key_heads: int, window: int | None) -> None:
    inputs = _inputs(LENGTHS, heads, key_heads, torch.float32)
    attention = CpuAttention(LENGTHS, CPU) if kind is CpuAttention else SdpaAttention(LENGTHS)
    for found, expected in zip(_run(attention, inputs, window), _by_definition(LENGTHS, inputs, window), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("window", [None, 37, 300])
def test_the_kernel_computes_it_too(kernels: TrainerKernels, heads: int, key_heads: int, window: int | None) -> None:
    inputs = _inputs(LENGTHS, heads, key_heads, torch.float32)
    found, expected = _run(NativeAttention(LENGTHS, kernels), inputs, window), _by_definition(LENGTHS, inputs, window)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_used_where_there_is_one(kernels: TrainerKernels) -> None:
    assert type(make_attention((4, 9), CPU, torch.float32, ALL, kernels)) is NativeAttention
    off = ALL.without("own_attention")
    assert type(make_attention((4, 9), CPU, torch.float32, off, kernels)) is SdpaAttention


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
def test_in_bfloat16_is_about_as_near_to_float32_as_torchs_own(heads: int, key_heads: int) -> None:
    inputs = _inputs(LENGTHS, heads, key_heads, torch.bfloat16)
    expected = _by_definition(LENGTHS, [tensor.detach().float().requires_grad_() for tensor in inputs])

    def errors(attention: Attention) -> list[float]:
        return [
            float((found.float() - exact).norm() / exact.norm())
            for found, exact in zip(_run(attention, inputs), expected, strict=True)
        ]

    for own, torchs in zip(errors(CpuAttention(LENGTHS, CPU)), errors(SdpaAttention(LENGTHS)), strict=True):
        assert own < 2 * torchs
        assert own < 0.01


def test_nothing_of_the_inputs_is_changed() -> None:
    inputs = _inputs(LENGTHS, 4, 4, torch.float32)
    before = [tensor.detach().clone() for tensor in inputs]
    _run(CpuAttention(LENGTHS, CPU), inputs)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


def test_autocast_around_it_does_not_reach_its_scores() -> None:
    inputs = _inputs(LENGTHS, 4, 4, torch.float32)
    plain = CpuAttention(LENGTHS, CPU)(inputs[0], inputs[1], inputs[2], 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = CpuAttention(LENGTHS, CPU)(inputs[0], inputs[1], inputs[2], 0.2)
    assert torch.equal(plain, inside)


def test_trap_19_segments_begins_are_strictly_increasing_and_end_at_the_last_input() -> None:
    begins = cumulative_lengths(LENGTHS, CPU)
    assert begins.dtype == torch.int32
    assert bool((begins.diff() > 0).all())
    assert begins[[0, -1]].tolist() == [0, sum(LENGTHS)]
    with pytest.raises(AssertionError):
        cumulative_lengths((3, 0, 2), CPU)


@pytest.mark.parametrize(
    ("longest", "is_on", "kind"),
    [(LONGEST_OWN, True, CpuAttention), (LONGEST_OWN + 1, True, SdpaAttention), (8, False, SdpaAttention)],
)
def test_long_segments_are_left_to_torch(longest: int, is_on: bool, kind: type) -> None:
    techniques = ALL if is_on else ALL.without("own_attention")
    assert type(make_attention((4, longest), CPU, torch.float32, techniques)) is kind
