"""Products over weights laid side by side: what each way gives, and what is left of the weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from worker.inference.projection import (
    MAX_INT8_ROWS,
    AdaptedProjection,
    Int8Projection,
    PackedProjection,
    PlainProjection,
    Projection,
    can_pack,
)

Maker = Callable[[Tensor, Tensor | None], Projection]


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


def test_layers_side_by_side_give_their_outputs_and_weights_apart() -> None:
    layers = [nn.Linear(8, 5), nn.Linear(8, 3, bias=False)]
    projection = AdaptedProjection(["a", "b"], layers, "model")
    x = torch.randn(4, 8)
    with torch.inference_mode():
        torch.testing.assert_close(projection(x), torch.cat([layer(x) for layer in layers], dim=1))
        assert projection(x[:0]).shape == (0, 8)
    assert projection.weight_of("b").equal(layers[1].weight)
