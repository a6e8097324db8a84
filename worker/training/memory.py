"""How much memory a micro-batch may take, measured on the model itself, and how much the process has taken."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from core.errors import OutOfMemory
from worker.training.lora import LoraModel

PROBE_TOKENS = 64
FREE_SHARE = 0.5  # of the free memory that activations may take; the rest is for logits, workspace and neighbours

# Where a larger micro-batch stops being faster. On a CPU it also bounds how long a stop has to wait.
MAX_TOKENS_CPU = 1024
MAX_TOKENS_CUDA = 16_384
MIN_TOKENS = 64


def activation_bytes_per_token(model: LoraModel) -> int:
    """Measure what one token leaves behind for backward, by watching what autograd saves for a short input."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.peft.parameters()}
    saved: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids_BT = torch.ones((1, PROBE_TOKENS), dtype=torch.int64, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor), model.autocast():
        model.hidden_states(ids_BT)
    return max(1, sum(saved.values()) // PROBE_TOKENS)


def choose_token_budget(model: LoraModel) -> int:
    """Give the most tokens, padding included, that one micro-batch may have on this machine now."""
    if model.device.type == "cuda":
        free_bytes, most = torch.cuda.mem_get_info(model.device)[0], MAX_TOKENS_CUDA
    else:
        free_bytes, most = psutil.virtual_memory().available, MAX_TOKENS_CPU
    affordable = int(free_bytes * FREE_SHARE) // activation_bytes_per_token(model)
    return max(MIN_TOKENS, min(most, affordable))


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
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_REMEDY) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch has no class for this on a CPU
            raise
        raise OutOfMemory(_REMEDY) from error


_REMEDY = (
    "the machine's memory does not hold this run; lower max_length, or use a smaller base model or machine with more"
)
