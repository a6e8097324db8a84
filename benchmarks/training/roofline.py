"""The physical limit of a run: the operations it needs, at the rate of this machine's matrix products.

Measured in the process that trained, right after it. What a run needs is found by
``flops`` and the peak by ``gemm_probe`` of ``worker.training.measure``, as in the trainer's own metrics; here every
product's own rate is added.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from benchmarks.host.number_types import NumberTypes
from worker.models.precision import resolve_dtype
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.measure.flops import Amounts, count_flops, frozen_linear_layers
from worker.training.measure.gemm_probe import probe_flops_per_s
from worker.training.model.lora import LoraModel

MIN_REPEATS, ENOUGH_S = 3, 0.3  # a product is repeated until both are reached; the fastest counts
MOST_ROWS, MOST_SCORED = 16_384, 4096  # more would not be faster, and would not fit beside the model


@dataclass(frozen=True)
class Product:
    """(rows, inner) by (inner, columns); backward, the weight lies the other way round in memory."""

    rows: int
    inner: int
    columns: int
    is_backward: bool

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.inner}x{self.columns} {'backward' if self.is_backward else 'forward'}"

    def best_s(self, dtype: torch.dtype, device: torch.device) -> float:
        """Time it: forward as x @ W.T, backward as g @ W, W as a linear layer keeps it."""
        left = torch.randn(self.rows, self.inner, device=device, dtype=dtype)
        shape = (self.inner, self.columns) if self.is_backward else (self.columns, self.inner)
        weight = torch.randn(*shape, device=device, dtype=dtype)
        with torch.inference_mode():
            if self.is_backward:
                return _best_s(lambda: left @ weight, device)
            return _best_s(lambda: torch.nn.functional.linear(left, weight), device)


@dataclass(frozen=True)
class Roofline:
    """What all steps of a run would take at least.

    Attributes:
        standard_flops: 4 N for each token and 4 V H for each scored one: the frozen products, forward and to their
            inputs, of a trainer that computes every block in full. Adapters and attention are not in it.
        needed_flops: counted product by product, adapters and attention with them; without what ours skips, which
            is the last block's rows that nobody reads and the slope of the first block's input.
        peak_flops_per_s: of the fastest product of the model's shapes.
        shapes_flops_per_s: of all products of a step together, each at its own rate, in the faster number type.
        products: GFLOP/s of each product and number type.
    """

    standard_flops: int
    needed_flops: int
    peak_flops_per_s: float
    shapes_flops_per_s: float
    products: dict[str, float]

    @property
    def seconds(self) -> float:
        """Give what the standard work takes at the rate of the model's own products."""
        return self.standard_flops / self.shapes_flops_per_s

    @property
    def needed_seconds(self) -> float:
        """Give what only the needed work takes at that rate: less is not left to gain."""
        return self.needed_flops / self.shapes_flops_per_s

    @property
    def peak_seconds(self) -> float:
        """Give what the needed work would take if every product were as fast as the fastest."""
        return self.needed_flops / self.peak_flops_per_s

    @classmethod
    def measure(cls, model: LoraModel, examples: ExampleSet, plan: TrainingPlan, types: NumberTypes) -> Self:
        """Time the products of one step of mean size, and count what all steps need.

        In a type that is hopeless in small products, those of a step, which are large, are not tried.
        """
        amounts = Amounts.of(examples, range(len(examples)))
        step = Amounts.of(examples, plan.members_of(0))
        times: Counter[Product] = Counter()
        for product, needed_rows in _products(model, step.inputs, step.scored):
            times[product] += needed_rows
        seconds = dict.fromkeys(types.measured, 0.0)
        rates, total = {}, 0.0
        for product, rows in times.items():
            for dtype in types.measured:
                best_s = product.best_s(resolve_dtype(dtype), model.device)
                seconds[dtype] += best_s * rows / product.rows
                rates[f"{dtype} {product.name}"] = product.flops / best_s / 1e9
            total += product.flops * rows / product.rows
        peak = max(probe_flops_per_s(model, step.inputs), max(rates.values()) * 1e9)
        blocks = sum(layer.in_features * layer.out_features for layer in frozen_linear_layers(model).values())
        standard = 4 * blocks * amounts.inputs + 4 * model.head.weight.numel() * amounts.scored
        needed = count_flops(model)
        assert needed is not None, "the benchmark's models have blocks of a known form"
        return cls(standard, needed.of(amounts), peak, total / min(seconds.values()), rates)


def _products(model: LoraModel, inputs: int, scored: int) -> Iterator[tuple[Product, int]]:
    """List the frozen products of one step, forward and to their inputs, with the rows that the step needs of each."""
    some = min(inputs, MOST_ROWS)
    for layer in frozen_linear_layers(model).values():
        outputs, width = layer.out_features, layer.in_features
        yield Product(some, width, outputs, is_backward=False), inputs
        yield Product(some, outputs, width, is_backward=True), inputs
    vocabulary, width = model.head.weight.shape
    some = min(scored, MOST_SCORED)
    yield Product(some, width, vocabulary, is_backward=False), scored
    yield Product(some, vocabulary, width, is_backward=True), scored


def _best_s(multiply: Callable[[], Tensor], device: torch.device) -> float:
    times_s: list[float] = []
    while len(times_s) < MIN_REPEATS or sum(times_s) < ENOUGH_S:
        began_s = time.perf_counter()
        multiply()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)
