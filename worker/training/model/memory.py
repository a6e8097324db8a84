"""How much memory a micro-batch may take, measured on the model itself, and how much the process has taken."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from core.errors import OutOfMemory
from core.estimates.estimate import Machine
from core.estimates.memory_plan import MIN_TOKENS, ComputeType, checkpointed_blocks, token_budget
from worker.training.data.examples import TokenizedExample
from worker.training.model.lora import LoraModel

PROBE_TOKENS = 64


def activation_bytes_per_token(model: LoraModel) -> int:
    """Measure what one token leaves behind for backward, by watching what autograd saves for a short input."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.peft.parameters()}
    saved: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights_T = np.r_[0.0, np.ones(PROBE_TOKENS)].astype(np.float32)
    example = TokenizedExample(np.ones(PROBE_TOKENS + 1, dtype=np.int32), weights_T, weights_T > 0)
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        model.hidden_states(model.collate([example]))
    return max(1, sum(saved.values()) // PROBE_TOKENS)


def choose_token_budget(model: LoraModel) -> int:
    """Give the most tokens, padding included, that one micro-batch may have on this machine now."""
    return token_budget(_free_bytes(model), activation_bytes_per_token(model), is_gpu=model.device.type == "cuda")


def checkpoint_what_does_not_fit(model: LoraModel, longest_tokens: int, at_least: int = 0) -> int:
    """Have as many blocks as needed computed twice, so that the longest example fits; give their number.

    The gradients are the same bits, so a resumed run need not choose the same.

    Args:
        at_least: what another adapter in the same base needs.
    """
    config: Any = model.decoder.config
    model.decoder_pass.checkpointed_blocks = 0  # what all of them keep is measured
    needed = checkpointed_blocks(
        _free_bytes(model),
        activation_bytes_per_token(model),
        max(longest_tokens, MIN_TOKENS),
        blocks=config.num_hidden_layers,
        input_bytes=model.head.in_features * model.dtype.itemsize,
    )
    model.decoder_pass.checkpointed_blocks = max(at_least, needed)
    return model.decoder_pass.checkpointed_blocks


def _free_bytes(model: LoraModel) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0])
    return int(psutil.virtual_memory().available)


def describe_machine(model: LoraModel, devices: int = 1) -> Machine:
    """Say what the model is trained on, and on how many of them at once."""
    dtype: ComputeType = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
    if model.device.type == "cuda":
        name, memory_bytes = torch.cuda.get_device_name(model.device), torch.cuda.mem_get_info(model.device)[1]
    else:
        name, memory_bytes = "cpu", psutil.virtual_memory().total
    has_kernels = model.kernels is not None
    return Machine(device=name, dtype=dtype, memory_bytes=memory_bytes, devices=devices, has_kernels=has_kernels)


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory used so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def out_of_memory_named() -> Iterator[None]:
    """Turn the ways in which torch reports a full memory into the one error that says what to do.

    Raises:
        OutOfMemory: an allocation failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_REMEDY) from error


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an allocation failed. For a CPU torch has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


_REMEDY = (
    "the machine's memory does not hold this run; lower max_length, or use a smaller base model or machine with more"
)
