"""The trainer's techniques as switches, for a benchmark and tests that turn each off alone; no job has a say."""

from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True)
class Techniques:
    """What makes a step fast. Every one is on, and none changes a result beyond rounding.

    Attributes:
        bf16_base: the frozen base in bfloat16 where a probe says that the machine is fast at it.
        packing: examples one behind the other, without padding; off: right-padded to the longest of a micro-batch.
        own_blocks: our own forward pass of the architectures we know; off: transformers' modules.
        own_attention: on a CPU, our own attention instead of torch's, which is slow backwards in bfloat16.
        own_kernels: on a CPU in float32 compiled kernels for what our own blocks compute; off: torch's operations.
        own_lora: one autograd function for all adapters that read the same input; off: PEFT's modules.
        no_input_cast: PEFT's modules do not copy their inputs to float32. Shows only without ``own_lora``.
        fused_gelu: the fused tanh GELU instead of transformers' formula of seven operations.
        scored_rows: the head on the rows that have a weight; off: on all.
        gradient_in_forward: the head's gradient while its logits are at hand; off: autograd keeps the logits.
        last_block_rows: the last block computes only the rows that the head reads. Needs ``own_blocks``.
        no_checkpointing: activations are kept where they fit; off: every block computes them twice.
    """

    bf16_base: bool = True
    packing: bool = True
    own_blocks: bool = True
    own_attention: bool = True
    own_kernels: bool = True
    own_lora: bool = True
    no_input_cast: bool = True
    fused_gelu: bool = True
    scored_rows: bool = True
    gradient_in_forward: bool = True
    last_block_rows: bool = True
    no_checkpointing: bool = True

    def without(self, name: str) -> "Techniques":
        """Switch one off."""
        assert name in {field.name for field in fields(self)}
        return replace(self, **{name: False})


ALL: Final = Techniques()
# A technique that shows only when another one is off: it is compared with that, not with all of them.
SHOWS_WITHOUT: Final = {"no_input_cast": "own_lora"}
