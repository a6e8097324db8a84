"""What a random adapter is like. Plain data: who writes it is ``benchmarks.serving.adapters``, which needs torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AdapterSpec:
    """One random adapter.

    Attributes:
        targets: last parts of layers' names; empty: every linear layer but the head.
        ranks: other ranks for some layers, by the end of their names, as PEFT's ``rank_pattern``; ``alphas`` likewise.
        strength: how large the deltas are, as a share of the base weights' spread.
    """

    name: str
    rank: int
    seed: int
    alpha: float | None = None  # None: twice the rank
    targets: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    strength: float = 0.3
    dtype: str = "bfloat16"

    @property
    def lora_alpha(self) -> float:
        return 2 * self.rank if self.alpha is None else self.alpha

    def rank_of(self, layer: str) -> int:
        return next((rank for end, rank in self.ranks.items() if layer.endswith(f".{end}")), self.rank)

    def scale_of(self, layer: str) -> float:
        """Give what a layer's delta is multiplied by."""
        alpha = next((alpha for end, alpha in self.alphas.items() if layer.endswith(f".{end}")), self.lora_alpha)
        rank = self.rank_of(layer)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)
