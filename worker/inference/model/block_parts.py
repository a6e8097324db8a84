"""What a decoder block is made of: norms, products and heads, as those that compute with it read them."""

from dataclasses import dataclass

from torch import Tensor

from worker.inference.model.projections.adapted_projection import AdaptedProjection


@dataclass(frozen=True)
class Heads:
    """How a layer's queries, keys and values lie side by side: A query and G key-value heads of D numbers."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float


@dataclass(frozen=True)
class Norm:
    """A norm's weights; without a bias it divides by the root of the mean square."""

    weight_H: Tensor
    bias_H: Tensor | None
    epsilon: float


@dataclass(frozen=True)
class BlockParts:
    """Attention and MLP, each behind a norm and added to what went in; without ``mlp_norm`` both behind one."""

    attention_norm: Norm
    mlp_norm: Norm | None
    qkv: AdaptedProjection
    attention_out: AdaptedProjection
    mlp_in: AdaptedProjection
    mlp_out: AdaptedProjection
    heads: Heads
    is_gated: bool

    @property
    def projections(self) -> tuple[AdaptedProjection, AdaptedProjection, AdaptedProjection, AdaptedProjection]:
        """In the order in which they are computed."""
        return self.qkv, self.attention_out, self.mlp_in, self.mlp_out
