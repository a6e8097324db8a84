"""Makes the runner of a base model: chooses the way through it, and tries that against transformers before it serves.

What transformers computes of a model with our own blocks is remembered (``worker.models.reference``); that our blocks,
on this machine and with its kernels, compute the same is tried at every start.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
import torch

from core.errors import BaseModelInvalid
from core.settings import Settings
from worker.inference.kv_cache.budget import running_bytes
from worker.inference.kv_cache.slots import KvPool, KvShape
from worker.inference.model.comparison import TOLERANCE, distance
from worker.inference.model.cuda_recorder import CudaRecorder, Recorder
from worker.inference.model.native_ops import NativeOps, crossover_trial
from worker.inference.model.ops import Ops, TorchOps
from worker.inference.model.passes.blocks import OwnModel
from worker.inference.model.passes.forward_pass import Pass
from worker.inference.model.projections.projection import Make, can_quantize, maker
from worker.inference.model.runner import ModelRunner
from worker.inference.native.build import load
from worker.models.reference import PROBED_BLOCKS
from worker.models.serving import EngineModel, StoredModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def build_runner(
    served: EngineModel, settings: Settings, *, entering: Callable[[str], object] = lambda _: None
) -> ModelRunner:
    """Make the runner of a model, which transformers cannot run afterwards; ``entering`` is told of each phase.

    Raises:
        BaseModelInvalid: no way that we have computes what transformers computes, or its weights cannot be kept in
            8 bits here.
    """
    wants_kernels = settings.engine_native and served.device.type == "cpu"
    kernels = load(settings.kernels_folder, settings.engine_cpu_level) if wants_kernels else None
    if settings.engine_weights == "int8" and not can_quantize(served.device, served.dtype, kernels):
        raise BaseModelInvalid(
            "LORAMILL_ENGINE_WEIGHTS is int8, which needs a CPU, and bfloat16 or a compiled product; this engine has "
            f"none, and computes in {served.dtype} on {served.device}: leave the setting out"
        )
    make = maker(settings.engine_weights, kernels)
    ops = TorchOps() if kernels is None else NativeOps(kernels)
    source, recorded = served.source, _make_recorder(served, settings)
    with torch.inference_mode():
        entering("checking the model's blocks against transformers")
        if isinstance(source, StoredModel):
            # with the products that serve in float32, so that these are tried on the model's own weights too
            source, error = _try_blocks(source, maker("model", kernels), ops, served.context_tokens, recorded)
            entering("loading weights")
            way: Pass = OwnModel(source, make, ops, served.context_tokens, dtype=served.dtype)
        else:
            way, error = _try_modules(source, make, served.context_tokens)
    kv = KvPool(way.kv_shape, _kv_bytes(way.kv_shape, served, settings), served.context_tokens)
    recorder = _make_recorder(served, settings)
    logger.info(
        "computed by %s over %s and %s, %.1g off transformers' logits, CUDA graphs %s",
        type(way).__name__,
        type(ops).__name__,
        ", ".join(sorted({projection.kind for projection in way.projections.values()})),
        error,
        "none" if recorder is None else "recorded",
    )
    runner = ModelRunner(
        way,
        served.tokenizer.vocab_size,
        kv,
        settings.engine_lora_columns,
        recorder=recorder,
    )
    if isinstance(ops, NativeOps):
        runner.trials, runner.kernels = (crossover_trial(ops, served.dtype),), ops.kernels.name
    return runner


def _make_recorder(served: EngineModel, settings: Settings) -> Recorder | None:
    """Make what records steps; None where they are taken without graphs."""
    is_own = isinstance(served.source, StoredModel)
    return CudaRecorder() if settings.engine_cuda_graphs and served.device.type == "cuda" and is_own else None


def _try_blocks(
    stored: StoredModel, make: Make, ops: Ops, context_tokens: int, recorder: Recorder | None
) -> tuple[StoredModel, float]:
    """Hold our own blocks against transformers; give the model as transformers describes it, and the distance.

    What is remembered of transformers condemns nobody: it is asked again before a model is refused.

    Raises:
        BaseModelInvalid: they compute something else.
    """

    def try_them(described: StoredModel) -> float:
        way = OwnModel(described, make, ops, context_tokens, dtype=torch.float32, first_blocks=PROBED_BLOCKS)
        return distance(way, described.reference.logits_KV, context_tokens, recorder)

    error = try_them(stored)
    if stored.is_remembered and not error <= TOLERANCE:
        logger.warning(
            "the engine computes other logits than transformers did (by %.2g of their spread): it is asked again", error
        )
        stored = stored.asked_anew()
        error = try_them(stored)
    hint = "" if recorder is None else "; try LORAMILL_ENGINE_CUDA_GRAPHS=false"
    _require_near(error, stored.folder.name, hint)
    return stored, error


def _try_modules(model: "PreTrainedModel", make: Make, context_tokens: int) -> tuple[Pass, float]:
    """Make a way of transformers' modules; give it with the distance of one like it.

    Raises:
        BaseModelInvalid: with our attention in them they compute something else.
    """
    from worker.inference.model.passes.transformers_pass import TransformersPass, probe

    wanted_KV, first = probe(model)
    error = distance(TransformersPass(first, maker("model", None)), wanted_KV, context_tokens, None)
    _require_near(error, type(model).__name__)
    return TransformersPass(model, make), error


def _require_near(error: float, name: str, hint: str = "") -> None:
    if not error <= TOLERANCE:  # nor if it is no number
        raise BaseModelInvalid(
            f"{name} cannot be served: the engine computes other logits than transformers does "
            f"(by {error:.2g} of their spread){hint}"
        )


def _kv_bytes(shape: KvShape, served: EngineModel, settings: Settings) -> int:
    free = torch.cuda.mem_get_info()[0] if served.device.type == "cuda" else psutil.virtual_memory().available
    return running_bytes(settings, free, shape.bytes_per_token * served.context_tokens * settings.engine_max_batch)
