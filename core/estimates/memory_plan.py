"""How much memory a training run takes, component by component, and how large its micro-batches may be.

The trainer takes its limits from here; what a token leaves behind it measures on the model itself
(``worker.training.model.memory``), and a test holds this module's formula to that. Pure arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from core.base_models.shape import LinearLayer, ModelShape
from core.jobs.spec import LoraSpec, Quantization
from core.values import Frozen

ComputeType = Literal["bfloat16", "float32"]
VALUE_BYTES: Final[dict[ComputeType, int]] = {"bfloat16": 2, "float32": 4}

FREE_SHARE: Final = 0.5  # of the free memory that activations may take; the rest is for logits, workspace, neighbours
# Where a larger micro-batch stops being faster. On a CPU it also bounds how long a stop has to wait.
MAX_TOKENS_CPU: Final = 2048
MAX_TOKENS_CUDA: Final = 16_384
MIN_TOKENS: Final = 64
CHUNK_ROWS: Final = 256  # rows of logits alive at once: 25 MiB in bfloat16 at a vocabulary of 50,000
TILE_ROWS: Final = 256  # queries of a CPU's attention at a time: a tile needs the keys before its end only
SOFTMAX_ROWS: Final = 8  # of them at a time in float32, so that they stay in the cache between operations

# 4 bits, and for each 64 values a constant of 8 bits, for each 256 of those one of 32 (2305.14314, section 3).
NF4_VALUE_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)

_ADAPTER_VALUE_BYTES: Final = 16  # float32: the weight, its gradient, AdamW's two moments
_MIB: Final = 2**20
_ENOUGH_BYTES: Final = 2**50
# Measured on a CPU with torch 2.13: the trainer's process when everything is imported and nothing is loaded.
_RUNTIME_BYTES: Final = 400 * _MIB
# Likewise: backward's own tensors; and in bfloat16 on a CPU what each new size of a micro-batch leaves behind in the
# matrix library and the allocator. Fitted to two runs, which it meets within 5 %: SmolLM2, and a Phi of 8 blocks.
_BACKWARD_SHARE: Final = 0.1
_KERNELS_BYTES_PER_SIZE: Final = 60 * _MIB
_MAX_KERNELS_BYTES: Final = 1150 * _MIB


class Memory(Frozen):
    """Bytes of a run by component, at the micro-batch that the trainer would choose.

    Attributes:
        runtime_bytes: interpreter and libraries, or the context of a GPU.
        workspace_bytes: backward's own tensors, compiled kernels, and the weights' files where they are converted.
        peak_bytes: the sum; what the run is expected to take at most.
        least_bytes: the same for a micro-batch of the longest example alone, every block computed twice; with less
            memory the run cannot succeed.
        token_budget: tokens of a micro-batch, padding included.
        checkpointed_blocks: computed twice, because the longest example would not fit otherwise.
    """

    dtype: ComputeType
    runtime_bytes: int
    base_weights_bytes: int
    adapter_bytes: int
    activations_bytes: int
    logits_bytes: int
    workspace_bytes: int
    peak_bytes: int
    least_bytes: int
    token_budget: int
    activation_bytes_per_token: int
    checkpointed_blocks: int

    @property
    def least_parts(self) -> dict[str, int]:
        """What ``least_bytes`` is the sum of, in words."""
        parts = {
            "base weights": self.base_weights_bytes,
            "adapter and optimizer": self.adapter_bytes,
            "logits": self.logits_bytes,
            "libraries": self.runtime_bytes,
        }
        return parts | {"activations of the longest example": self.least_bytes - sum(parts.values())}


@dataclass(frozen=True)
class StepSizes:
    """How large the steps of a run are.

    Attributes:
        longest_tokens: of all examples that are trained on; ``mean_tokens`` likewise.
        batch_size: examples of a step.
        steps: of the run; each brings one more size of micro-batch, or several where it is cut.
    """

    longest_tokens: int
    mean_tokens: float
    batch_size: int
    steps: int

    @property
    def largest_tokens(self) -> int:
        """About the most tokens that one step has.

        Two standard deviations of the sum above its mean, an example's own being a third of the way to the longest.
        """
        deviation = (self.longest_tokens - self.mean_tokens) / 3
        likely = self.batch_size * self.mean_tokens + 2 * math.sqrt(self.batch_size) * deviation
        return min(self.batch_size * self.longest_tokens, round(likely))


def plan_memory(
    shape: ModelShape,
    lora: LoraSpec,
    dtype: ComputeType,
    sizes: StepSizes,
    *,
    available_bytes: int | None,
    is_gpu: bool,
    has_kernels: bool = False,
    quantization: Quantization | None = None,
) -> Memory:
    """Add up a run's memory. What DoRA keeps beside plain LoRA is not in it, beyond its lengths.

    Args:
        available_bytes: free before the trainer starts, from which the micro-batch's size follows; None: enough.
        has_kernels: whether the trainer has kernels of its own there, which own blocks in float32 on a CPU use.

    Raises:
        TargetModulesUnmatched: a target module matches no layer of the base model.
    """
    value_bytes = VALUE_BYTES[dtype]
    has_kernels = has_kernels and shape.has_own_blocks
    adapted = shape.adapted(lora)
    adapter_bytes = _adapter_bytes(shape, adapted, lora, dtype, has_kernels=has_kernels)
    weights_bytes = _weights_bytes(shape, dtype, quantization)
    longest = max(sizes.longest_tokens, MIN_TOKENS)
    per_token = activation_bytes_per_token(
        shape, adapted, lora, dtype, longest_tokens=sizes.longest_tokens, is_gpu=is_gpu, has_kernels=has_kernels
    )
    loaded_bytes = _RUNTIME_BYTES + weights_bytes + adapter_bytes
    free_bytes = _ENOUGH_BYTES if available_bytes is None else max(0, available_bytes - loaded_bytes)
    budget = token_budget(free_bytes, per_token, is_gpu=is_gpu)
    step_tokens = sizes.largest_tokens
    tokens = min(max(budget, longest), max(longest, step_tokens))
    block = {"blocks": shape.blocks, "input_bytes": shape.hidden_width * value_bytes}
    checkpointed = checkpointed_blocks(free_bytes, per_token, longest, **block)
    kept = kept_bytes_per_token(per_token, checkpointed, **block)
    logits_bytes = shape.vocab_rows * (CHUNK_ROWS * value_bytes + SOFTMAX_ROWS * 4)
    fixed_bytes = _RUNTIME_BYTES + weights_bytes + adapter_bytes + logits_bytes
    workspace_bytes = round(_BACKWARD_SHARE * tokens * kept)
    if shape.stored_bytes != shape.parameters * value_bytes:
        workspace_bytes += shape.stored_bytes
    if dtype == "bfloat16" and not is_gpu:
        micro_batch_sizes = sizes.steps * math.ceil(step_tokens / max(budget, longest))
        workspace_bytes += min(_MAX_KERNELS_BYTES, micro_batch_sizes * _KERNELS_BYTES_PER_SIZE)
    return Memory(
        dtype=dtype,
        runtime_bytes=_RUNTIME_BYTES,
        base_weights_bytes=weights_bytes,
        adapter_bytes=adapter_bytes,
        activations_bytes=tokens * kept,
        logits_bytes=logits_bytes,
        workspace_bytes=workspace_bytes,
        peak_bytes=fixed_bytes + tokens * kept + workspace_bytes,
        least_bytes=fixed_bytes + longest * min(per_token, kept_bytes_per_token(per_token, shape.blocks, **block)),
        token_budget=budget,
        activation_bytes_per_token=per_token,
        checkpointed_blocks=checkpointed,
    )


def _adapter_bytes(
    shape: ModelShape, adapted: tuple[LinearLayer, ...], lora: LoraSpec, dtype: ComputeType, *, has_kernels: bool
) -> int:
    """Add up what is trained, with its gradient and AdamW's moments, and the copies of it that backward needs."""
    values = sum(lora.rank * (layer.inputs + layer.outputs) for layer in adapted)
    lengths = sum(layer.outputs for layer in adapted) if lora.use_dora else 0
    has_copies = dtype == "bfloat16" or (shape.has_own_blocks and not lora.dropout and not has_kernels)
    # converted or joined, with the bias beside the ranks
    copies_bytes = values * VALUE_BYTES[dtype] * (lora.rank + 1) // lora.rank if has_copies else 0
    return (values + lengths) * _ADAPTER_VALUE_BYTES + copies_bytes


def _weights_bytes(shape: ModelShape, dtype: ComputeType, quantization: Quantization | None) -> int:
    """Add up the frozen weights; in 4 bits are the linear layers of the blocks, and nothing else."""
    if quantization is None:
        return shape.parameters * VALUE_BYTES[dtype]
    others = shape.parameters - shape.linear_parameters
    return round(shape.linear_parameters * NF4_VALUE_BYTES) + others * VALUE_BYTES[dtype]


def peak_bytes_together(memories: Sequence[Memory]) -> int:
    """Give what runs of one base take at most in one trainer: the base once, and each one's adapter.

    A pass may be over the micro-batches of all, as far as they have no more tokens than one of a single run may have.
    """
    largest_pass = max(
        max(one.activations_bytes, one.token_budget * one.activation_bytes_per_token) for one in memories
    )
    activations = min(sum(one.activations_bytes for one in memories), largest_pass)
    added = activations - max(one.activations_bytes for one in memories)
    rest = max(one.peak_bytes - one.adapter_bytes for one in memories)
    return rest + round((1 + _BACKWARD_SHARE) * added) + sum(one.adapter_bytes for one in memories)


def token_budget(free_bytes: int, bytes_per_token: int, *, is_gpu: bool) -> int:
    """Give the most tokens, padding included, that one micro-batch may have beside what is loaded already."""
    affordable = int(free_bytes * FREE_SHARE) // bytes_per_token
    return max(MIN_TOKENS, min(MAX_TOKENS_CUDA if is_gpu else MAX_TOKENS_CPU, affordable))


def kept_bytes_per_token(bytes_per_token: int, checkpointed: int, *, blocks: int, input_bytes: int) -> int:
    """Give what one token leaves behind when the first ``checkpointed`` of the blocks keep only their input.

    Backwards one such block at a time keeps everything again.
    """
    per_block = bytes_per_token // blocks
    return bytes_per_token - checkpointed * (per_block - input_bytes) + (per_block if checkpointed else 0)


def checkpointed_blocks(free_bytes: int, bytes_per_token: int, tokens: int, *, blocks: int, input_bytes: int) -> int:
    """Give the fewest blocks that must be computed twice for a micro-batch of so many tokens to fit.

    Where none of the ways fits, the one that keeps least; that is not all blocks of a model of a single one.
    """
    affordable = int(free_bytes * FREE_SHARE) // tokens
    kept = [
        kept_bytes_per_token(bytes_per_token, count, blocks=blocks, input_bytes=input_bytes)
        for count in range(blocks + 1)
    ]
    return next((count for count, size in enumerate(kept) if size <= affordable), kept.index(min(kept)))


def activation_bytes_per_token(
    shape: ModelShape,
    adapted: tuple[LinearLayer, ...],
    lora: LoraSpec,
    dtype: ComputeType,
    *,
    longest_tokens: int,
    is_gpu: bool,
    has_kernels: bool = False,
) -> int:
    """Give what one token leaves behind for backward, the copies of adapters not counted.

    Kept are: each norm's input, attention's q, k, v and result, the MLP's inner values, and for each
    adapter what it reads and what A gives. Dropout keeps each adapter's own input and mask instead.
    Where the trainer has blocks of its own, a norm keeps no float32 copy and a gate not its activation. On a CPU
    attention's probabilities are kept for examples of up to `TILE_ROWS` tokens. Kernels keep neither those nor what
    adapters read: they compute it again.
    """
    attention = mlp = 0
    for layer in shape.linear_layers:
        match layer.reads:
            case "attention":
                attention += layer.outputs
            case "attention_output":
                attention += layer.inputs
            case "mlp_output":  # gate, its activation and the other factor; or what goes into the activation
                mlp += layer.inputs * (1 if not shape.is_gated else 2 if shape.has_own_blocks else 3)
            case "mlp":
                pass
    read = 0 if has_kernels and not lora.dropout else _values_read(shape, adapted, lora)
    norms = (shape.norms * shape.blocks + 1) * shape.hidden_width
    norm_bytes = 4 if shape.has_rms_norm and not shape.has_own_blocks else VALUE_BYTES[dtype]
    # our own function carries the bias beside the ranks, where it has no kernels
    lora_a = (lora.rank + (shape.has_own_blocks and not has_kernels)) * len(adapted)
    probs = 0 if is_gpu or has_kernels or longest_tokens > TILE_ROWS else shape.blocks * shape.heads * longest_tokens
    return norms * norm_bytes + (probs + attention + mlp + read + lora_a) * VALUE_BYTES[dtype]


def _values_read(shape: ModelShape, adapted: tuple[LinearLayer, ...], lora: LoraSpec) -> int:
    if lora.dropout:
        return sum(2 * layer.inputs for layer in adapted)
    kept: dict[tuple[str, str], int] = {}
    for layer in adapted:
        source = layer.reads
        if source == "attention_output" and (shape.has_own_blocks or not shape.rotates_partly):
            continue  # attention's own result, which is kept already
        if source == "mlp" and shape.norms == 1:
            source = "attention"
        block = layer.name.rpartition(".")[0].rpartition(".")[0]
        kept[block, source] = layer.inputs
    return sum(kept.values())
