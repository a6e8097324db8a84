"""Rows times weights in panels, for each type of rows and each type of weights that a level of CPU has."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worker.inference.native.kernels import Kernels
from worker.inference.native.panels import GROUP, Panels, group_of, quantize

RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
# the type of rows and that of weights
PAIRS = [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.float32, torch.float16)]
INT8_PAIRS = [(torch.bfloat16, torch.int8), (torch.float32, torch.int8)]
# 512 inputs: rows so far apart that some products copy them first; 1286: more than one block of them, and not whole
SHAPES = pytest.mark.parametrize(
    ("inputs", "outputs"), [(576, 960), (2, 1), (42, 37), (512, 65), (130, 64), (1286, 50), (2560, 33)]
)
DTYPES = pytest.mark.parametrize("dtype", list(RELATIVE), ids=str)


@pytest.fixture(autouse=True)
def numbers() -> Iterator[None]:
    """The same random numbers for each test, and no gradients."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def multiplying(kernels: Kernels, dtype: torch.dtype) -> Kernels:
    if dtype not in kernels.multiplied:
        pytest.skip(f"{kernels.name.split('-')[1]} has no product of {dtype}")
    return kernels


def assert_like(got: Tensor, wanted: Tensor) -> None:
    """Compare within what the dtype can keep; a sum's error is as large as its terms, not as the sum."""
    relative = RELATIVE[got.dtype]
    torch.testing.assert_close(got.float(), wanted.float(), rtol=relative, atol=relative * wanted.abs().max().item())


def panels_of(
    kernels: Kernels, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, scale: Tensor | None = None
) -> Panels:
    return Panels(weight, bias, scale, dtype=dtype, width=kernels.panel_width)


def scales(outputs: int, inputs: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(math.ceil(inputs / group_of(inputs, dtype)), outputs)


def of_each_input(scale_GO: Tensor, inputs: int) -> Tensor:
    """Give (O, I)."""
    return scale_GO.T.repeat_interleave(GROUP if len(scale_GO) > 1 else inputs, dim=1)[:, :inputs]


def product(kernels: Kernels, x: Tensor, panels: Panels, added: Tensor | None = None) -> Tensor:
    out = x.new_full((len(x), panels.outputs), float("nan"))
    kernels.product(out, x, panels, added)
    return out


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("dtype", "kind"), PAIRS, ids=str)
@SHAPES
def test_it_is_torchs_linear(
    multiplying: Kernels, dtype: torch.dtype, kind: torch.dtype, inputs: int, outputs: int
) -> None:
    weight, bias = torch.randn(outputs, inputs).to(kind), torch.randn(outputs).to(dtype)
    plain, biased = panels_of(multiplying, weight, None, dtype), panels_of(multiplying, weight, bias, dtype)
    for rows in (*range(1, 18), 40, 200):
        x, added = torch.randn(rows, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
        wanted, before = x.float() @ weight.float().T, added.clone()
        assert_like(product(multiplying, x, plain), wanted)
        assert_like(product(multiplying, x, biased), wanted + bias.float())
        assert_like(product(multiplying, x, biased, added), wanted + bias.float() + added.float())
        assert added.equal(before)


@pytest.mark.usefixtures("threads")
@DTYPES
@pytest.mark.parametrize("inputs", [70, 1286])
def test_8_bits_are_exact_multiples_of_their_scales(multiplying: Kernels, dtype: torch.dtype, inputs: int) -> None:
    weight, scale = torch.randint(-128, 128, (45, inputs), dtype=torch.int8), scales(45, inputs, dtype)
    bias = torch.randn(45).to(dtype)
    panels = panels_of(multiplying, weight, bias, dtype, scale)
    scaled = weight * of_each_input(scale, inputs)
    for rows in (1, 2, 9, 14, 31, 100):
        x = torch.randn(rows, inputs).to(dtype)
        assert_like(product(multiplying, x, panels), x.float() @ scaled.T + bias.float())


@pytest.mark.parametrize("inputs", [70, 576, 1286])
def test_a_group_of_8_bits_is_as_fine_as_its_own_largest_weight(inputs: int) -> None:
    weight = torch.randn(45, inputs)
    weight[:, :GROUP] *= 100  # as outliers are: they make no other group coarse
    stored, scale = quantize(weight, group_of(inputs, torch.float32))
    error = (Panels(stored, None, scale, dtype=torch.float32, width=16).weight() - weight).abs()
    for group in range(0, inputs, GROUP):
        largest = weight[:, group : group + GROUP].abs().amax(dim=1, keepdim=True)
        assert (error[:, group : group + GROUP] <= largest / 127 / 2 * 1.001).all()


@pytest.mark.parametrize(("dtype", "kind"), PAIRS + INT8_PAIRS, ids=str)
def test_every_weight_of_its_type_is_widened_exactly(
    multiplying: Kernels, dtype: torch.dtype, kind: torch.dtype
) -> None:
    most = 2 ** (8 * kind.itemsize - 1)
    every = torch.arange(-most, most, dtype=torch.int8 if kind == torch.int8 else torch.int16).view(kind)
    normal = every.float().isfinite()
    if dtype == torch.bfloat16:  # dpbf16 takes those below for zero
        normal &= (every == 0) | (every.float().abs() >= torch.finfo(torch.float32).tiny)
    weight = torch.stack([every[normal], every[normal].flip(0)], dim=1)  # each as the first and the second of a pair
    scale = torch.ones(1, len(weight)) if kind == torch.int8 else None
    got = product(multiplying, torch.eye(2, dtype=dtype), panels_of(multiplying, weight, None, dtype, scale))
    assert got.float().equal(weight.T.float())


@pytest.mark.parametrize(("dtype", "kind"), PAIRS + INT8_PAIRS, ids=str)
@pytest.mark.parametrize("inputs", [576, 2560])
def test_a_rows_result_does_not_depend_on_those_beside_it(
    multiplying: Kernels, dtype: torch.dtype, kind: torch.dtype, inputs: int
) -> None:
    x = torch.randn(200, inputs).to(dtype)
    scale = scales(97, inputs, dtype) if kind == torch.int8 else None
    panels = panels_of(multiplying, (40 * torch.randn(97, inputs)).to(kind), None, dtype, scale)
    together = product(multiplying, x, panels)
    for rows in (*range(1, 18), 23, 64, 101):
        assert product(multiplying, x[:rows].contiguous(), panels).equal(together[:rows])


@pytest.mark.parametrize(("dtype", "kind"), PAIRS + INT8_PAIRS, ids=str)
@pytest.mark.parametrize("width", [16, 32])
def test_weights_come_back_as_they_went_in_all_or_some(dtype: torch.dtype, kind: torch.dtype, width: int) -> None:
    weight = (40 * torch.randn(37, 142)).to(kind)
    scale = scales(37, 142, dtype) if kind == torch.int8 else None
    wanted = weight.to(dtype) if scale is None else (weight * of_each_input(scale, 142)).to(dtype)
    panels = Panels(weight, None, scale, dtype=dtype, width=width)
    assert panels.weight().equal(wanted)
    some = torch.tensor([36, 0, 16, 15, 16])
    assert panels.rows(some).equal(wanted[some])
    assert panels.rows(some[:0]).shape == (0, 142)


@DTYPES
def test_what_is_added_may_not_be_where_the_result_goes(multiplying: Kernels, dtype: torch.dtype) -> None:
    panels, out = panels_of(multiplying, torch.randn(4, 2).bfloat16(), None, dtype), torch.zeros(1, 4, dtype=dtype)
    with pytest.raises(AssertionError):
        multiplying.product(out, torch.zeros(1, 2, dtype=dtype), panels, out)
