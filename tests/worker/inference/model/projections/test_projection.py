"""Products over weights laid side by side: what each way gives, and what is left of the weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from worker.inference.model.projections.adapted_projection import AdaptedProjection, LinearWeights
from worker.inference.model.projections.projection import (
    MAX_INT8_ROWS,
    Int8Projection,
    NativeProjection,
    PackedProjection,
    PlainProjection,
    Projection,
    Weights,
    can_pack,
    maker,
)
from worker.inference.native.build import load
from worker.inference.native.kernels import Kernels

Maker = Callable[[Tensor, Tensor | None], Projection]
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


@pytest.mark.parametrize("make", [PlainProjection, PackedProjection])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_is_torchs_own(make: Maker, rows: int, with_bias: bool) -> None:
    if make is PackedProjection and not can_pack():
        pytest.skip("this torch packs no weights")
    weight, x, states = torch.randn(48, 32).bfloat16(), torch.randn(rows, 32).bfloat16(), torch.randn(rows, 48)
    bias = torch.randn(48).bfloat16() if with_bias else None
    projection = make(weight, bias)
    with torch.inference_mode():
        assert projection(x).equal(linear(x, weight, bias))
        before = states.bfloat16()
        added = projection.onto(before, x)
    torch.testing.assert_close(added.float(), before.float() + linear(x, weight, bias).float(), atol=0.13, rtol=0.01)
    assert before.equal(states.bfloat16())
    assert projection.weight().equal(weight)


@pytest.mark.parametrize("rows", [1, MAX_INT8_ROWS, MAX_INT8_ROWS + 1])
def test_8_bits_are_near_and_few_and_many_rows_agree(rows: int) -> None:
    weight, x = torch.randn(48, 64).bfloat16(), torch.randn(rows, 64).bfloat16()
    bias = torch.randn(48).bfloat16()
    projection = Int8Projection(weight, bias)
    right = linear(x, weight, bias).float()
    assert (projection(x).float() - right).norm() < 0.02 * right.norm()
    torch.testing.assert_close(projection(x).float(), linear(x, projection.weight(), bias).float(), atol=0.2, rtol=0.02)


class TestChoice:
    """What a product is computed by on this machine."""

    def test_without_kernels_it_is_torchs(self) -> None:
        make, weight = maker("model", None), torch.randn(8, 4)
        assert isinstance(make(weight, None, torch.float32), PlainProjection)
        assert isinstance(make(weight.bfloat16(), None, torch.float32), PlainProjection)
        packed = PackedProjection if can_pack() else PlainProjection
        assert isinstance(make(weight, None, torch.bfloat16), packed)
        assert isinstance(maker("int8", None)(weight, None, torch.bfloat16), Int8Projection)

    @DTYPES
    def test_with_kernels_it_is_ours_where_the_weights_fit(self, dtype: torch.dtype) -> None:
        kernels, weight = kernels_for(dtype), torch.randn(8, 5).bfloat16()
        for weights in ("model", "int8"):
            assert isinstance(maker(weights, kernels)(weight[:, :4].contiguous(), None, dtype), NativeProjection)
        assert isinstance(maker("model", kernels)(weight, None, dtype), PackedProjection | PlainProjection)
        assert isinstance(maker("int8", kernels)(weight, None, dtype), Int8Projection)

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("stored", [None, torch.float32])
    def test_weights_of_16_bits_stay_so_and_exact_in_32(self, kind: torch.dtype, stored: torch.dtype | None) -> None:
        kernels = kernels_for(torch.float32)
        weight, bias, x = torch.randn(48, 64).to(kind), torch.randn(48).to(kind), torch.randn(3, 64)
        projection = maker("model", kernels)(weight.to(stored or kind), bias, torch.float32)
        assert isinstance(projection, NativeProjection)
        assert projection.weight_bytes == 2 * weight.numel()
        assert projection.weight().equal(weight.float())
        torch.testing.assert_close(projection(x), linear(x, weight.float(), bias.float()), atol=1e-5, rtol=1e-5)

    def test_weights_that_need_32_bits_keep_them(self) -> None:
        kernels = kernels_for(torch.float32)
        for weight in (torch.full((8, 4), 1 / 3), torch.full((8, 4), float("nan"))):
            projection = maker("model", kernels)(weight, None, torch.float32)
            assert isinstance(projection, PlainProjection)
            assert projection.weight_bytes == weight.nbytes

    @DTYPES
    def test_ours_gives_what_torchs_8_bits_give(self, dtype: torch.dtype) -> None:
        weight, bias, x = torch.randn(48, 64).to(dtype), torch.randn(48).to(dtype), torch.randn(3, 64).to(dtype)
        ours, theirs = maker("int8", kernels_for(dtype))(weight, bias, dtype), Int8Projection(weight, bias)
        near = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(ours(x), theirs(x), atol=10 * near, rtol=near)
        torch.testing.assert_close(ours.weight(), theirs.weight(), atol=near, rtol=near)
        assert theirs.weight_bytes == weight.numel()
        assert ours.weight_bytes == weight.numel() + len(weight) * torch.float32.itemsize  # one group's scales

    @DTYPES
    @pytest.mark.parametrize("weights", ["model", "int8"])
    def test_rows_are_those_of_the_weights_or_are_not_given(self, dtype: torch.dtype, weights: Weights) -> None:
        weight, some = torch.randn(48, 64).bfloat16(), torch.tensor([47, 0, 47])
        for kernels in (None, kernels_for(dtype)):
            projection = maker(weights, kernels)(weight, None, dtype)
            find = projection.find_rows()
            if weights == "int8" or isinstance(projection, PackedProjection):
                assert find is None
            else:
                assert find is not None
                assert find(some).equal(weight[some].to(dtype))


def kernels_for(dtype: torch.dtype) -> Kernels:
    kernels = load(Settings(home=home_with_kernels()).kernels_folder)
    if kernels is None or dtype not in kernels.multiplied:
        pytest.skip(f"no compiler here, or a CPU without a product of {dtype}")
    return kernels


def test_layers_side_by_side_give_their_outputs_and_weights_apart() -> None:
    layers = [nn.Linear(8, 5), nn.Linear(8, 3, bias=False)]
    weights = [LinearWeights(layer.weight, layer.bias, torch.float32) for layer in layers]
    projection = AdaptedProjection(["a", "b"], weights, maker("model", None))
    x = torch.randn(4, 8)
    with torch.inference_mode():
        torch.testing.assert_close(projection(x), torch.cat([layer(x) for layer in layers], dim=1))
        assert projection(x[:0]).shape == (0, 8)
    assert projection.weight_of("b").equal(layers[1].weight)
