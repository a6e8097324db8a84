"""What one architecture's decoder block is made of, in the words of transformers' modules.

A descriptor says what cannot be read elsewhere. Widths, heads, biases, a tied head and how much of each head is rotated
stand in the weights and the config. Common to all blocks, and so no field: causal attention with grouped heads whose
halves are rotated against each other (GPT-NeoX), and results that are added to what went in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

# What a linear layer of a block reads. Layers that read the same keep it once for backward.
Input = Literal["attention", "attention_output", "mlp", "mlp_output"]
Norm = Literal["rms", "layer"]
Activation = Literal["gated_silu", "gelu_tanh"]

# What a config calls them; the three of GELU are one formula.
_ACTIVATION_NAMES: Final[dict[Activation, frozenset[str]]] = {
    "gated_silu": frozenset({"silu", "swish"}),
    "gelu_tanh": frozenset({"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}),
}


@dataclass(frozen=True)
class Architecture:
    """One decoder block; modules are named by their path inside it, as in ``self_attn.q_proj``.

    Attributes:
        model_type: its name in a config.
        norm: of every norm, the last one included.
        mlp_norm: behind attention; None where the MLP stands beside attention and reads what that reads.
        final_norm: before the head, by its name in the decoder.
        mlp_in: the gate, then what it multiplies; or one layer, where there is no gate.
        activation_module: computes the activation of an MLP without a gate.
        gguf: its name in GGUF.
        gguf_pairs_rows: in GGUF the rows of queries and keys stand in the order in which neighbours are rotated.
        other_blocks: options of a config which, when set, mean a block that is not described here.
    """

    model_type: str
    norm: Norm
    attention_norm: str
    mlp_norm: str | None
    final_norm: str
    query: str
    key: str
    value: str
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    activation: Activation
    gguf: str
    gguf_pairs_rows: bool = False
    activation_module: str | None = None
    other_blocks: tuple[str, ...] = ()

    @property
    def is_parallel(self) -> bool:
        """Whether attention and MLP stand side by side behind one norm."""
        return self.mlp_norm is None

    @property
    def is_gated(self) -> bool:
        return self.activation == "gated_silu"

    @property
    def gate(self) -> str | None:
        return self.mlp_in[0] if self.is_gated else None

    def inputs(self) -> Iterator[tuple[str, Input]]:
        """Give each linear layer's own name, the last part of its path, and what it reads."""
        for path in (self.query, self.key, self.value):
            yield last_part(path), "attention"
        yield last_part(self.attention_out), "attention_output"
        for path in self.mlp_in:
            yield last_part(path), "mlp"
        yield last_part(self.mlp_out), "mlp_output"

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a base model's blocks are these; without a word of its activation it has the usual one."""
        activation = config.get("hidden_act")
        return (
            config.get("model_type") == self.model_type
            and (activation is None or activation in _ACTIVATION_NAMES[self.activation])
            and not any(config.get(option) for option in self.other_blocks)
        )


def last_part(path: str) -> str:
    """Give a module's own name."""
    return path.rpartition(".")[2]
