"""The architectures whose blocks trainer and engine compute themselves, and what layers of other ones are called."""

from collections.abc import Mapping
from typing import Any, Final

from core.base_models.architectures.architecture import Architecture, Input, last_part
from core.base_models.architectures.llama import LLAMA
from core.base_models.architectures.phi import PHI
from core.base_models.architectures.qwen2 import QWEN2

ARCHITECTURES: Final = (LLAMA, PHI, QWEN2)

# Layers of architectures that transformers' modules compute, such as Phi-3, beside those with the names above.
_OTHER_INPUTS: Final[dict[str, Input]] = {
    "qkv_proj": "attention",
    "out_proj": "attention_output",
    "gate_up_proj": "mlp",
}
_OTHER_GATE: Final = "gate_up_proj"

_INPUTS: Final = _OTHER_INPUTS | {name: reads for known in ARCHITECTURES for name, reads in known.inputs()}
_GATES: Final = {_OTHER_GATE, *(last_part(known.gate) for known in ARCHITECTURES if known.gate is not None)}


def find_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Give the descriptor of a base model's blocks; None where trainer and engine leave them to transformers."""
    return next((known for known in ARCHITECTURES if known.describes(config)), None)


def find_input(name: str) -> Input | None:
    """Tell what a linear layer of that name reads, in any architecture; None for a name that is not known here."""
    return _INPUTS.get(last_part(name))


def is_gate(name: str) -> bool:
    """Tell whether a linear layer of that name gives a gate, in any architecture."""
    return last_part(name) in _GATES
