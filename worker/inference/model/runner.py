"""A base model as the engine runs it: its forward pass, the slots of its cache, the bank of its adapters.

Chooses the way through the model and tries it against transformers before anything is served. Knows no requests.
"""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import BaseModelInvalid
from core.settings import Settings
from worker.inference.kv_cache.budget import running_bytes
from worker.inference.kv_cache.slots import KvPool, KvShape
from worker.inference.lora.bank import LoraBank
from worker.inference.lora.step_columns import LONGEST_SHARED
from worker.inference.model.blocks import OwnModel, find_own_blocks
from worker.inference.model.contract import StepRow, TargetLayer
from worker.inference.model.cuda_graphs import DecodeGraphs
from worker.inference.model.cuda_recorder import CudaRecorder, Recorder
from worker.inference.model.forward_pass import Pass, StepLora, TransformersPass, all_groups, biases_of, size_of
from worker.inference.model.native_ops import NativeOps, crossover_trial
from worker.inference.model.ops import Ops, TorchOps
from worker.inference.model.projection import Make, Weights, can_quantize, maker
from worker.inference.model.step_layout import make_step
from worker.inference.model.step_timer import StepTimer
from worker.inference.native.build import load
from worker.inference.tuning.autotuner import Trial
from worker.models.loading import LoadedModel

logger = logging.getLogger(__name__)

# Two texts of unequal length, fed in parts beside each other.
_PROBES: Final = ((1, 2, 3, 5, 8, 13, 21), (8, 5, 3, 2, 1))
# A way is tried on the first blocks, in float32: blocks are alike, and in bfloat16 thirty of them make so much of their
# rounding that two right ways agree in nothing on a text as meaningless as the probes.
_PROBED_BLOCKS: Final = 2
_TOLERANCE: Final = 1e-3  # of the logits' spread


class ModelRunner:
    """Implements ``contract.Runner`` with a model in this process.

    Attributes:
        trials: what times decide of how it computes.
        kernels: the name of the compiled ones; None: none are used.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocab_size: int,
        way: Pass,
        kv: KvPool,
        columns: int,
        *,
        weights: Weights = "model",
        recorder: Recorder | None = None,
    ) -> None:
        """Take a way that was made; without a ``recorder`` every step is taken without graphs."""
        self.trials: tuple[Trial[Any], ...] = ()
        self.kernels: str | None = None
        self._way = way
        self._device = model.device
        self._vocab_size = vocab_size
        self.kv = kv
        self.longest_shared = LONGEST_SHARED
        self.bank = LoraBank(all_groups(way.projections), columns, biases_of(model))
        self.size = size_of(model, way.projections, weights)
        self.timer = StepTimer(model.device)
        self._graphs = None if recorder is None else DecodeGraphs(way, self.bank, recorder, model.device)

    @classmethod
    def build(cls, loaded: LoadedModel, settings: Settings) -> "ModelRunner":
        """Take a loaded model over; transformers cannot run it afterwards.

        Raises:
            BaseModelInvalid: no way that we have computes what transformers computes, or its weights cannot be kept in
                8 bits here.
        """
        if settings.engine_weights == "int8" and not can_quantize(loaded.device, loaded.dtype):
            raise BaseModelInvalid(
                "LORAMILL_ENGINE_WEIGHTS is int8, which needs a CPU and bfloat16; this engine computes in "
                f"{loaded.dtype} on {loaded.device}: leave the setting out"
            )
        kernels = load(settings.kernels_folder) if settings.engine_native and loaded.device.type == "cpu" else None
        make = maker(settings.engine_weights, kernels)
        with torch.inference_mode():
            ops = TorchOps() if kernels is None else NativeOps(kernels)
            error = _compare_with_transformers(loaded, ops, _make_recorder(loaded, settings))
            way = _make_way(loaded.model, make, ops, loaded.context_tokens)
        shape = kv_shape(loaded.model)
        kv = KvPool(shape, _kv_bytes(shape, loaded, settings), loaded.context_tokens)
        recorder = _make_recorder(loaded, settings)
        logger.info(
            "computed by %s over %s and %s, %.1g off transformers' logits, CUDA graphs %s",
            type(way).__name__,
            type(ops).__name__,
            ", ".join(sorted({projection.kind for projection in way.projections.values()})),
            error,
            "none" if recorder is None else "recorded",
        )
        runner = cls(
            loaded.model,
            loaded.tokenizer.vocab_size,
            way,
            kv,
            settings.engine_lora_columns,
            weights=settings.engine_weights,
            recorder=recorder,
        )
        if isinstance(ops, NativeOps):
            runner.trials, runner.kernels = (crossover_trial(ops, loaded.dtype),), ops.kernels.name
        return runner

    @property
    def layers(self) -> Mapping[str, TargetLayer]:
        """See ``contract.Runner.layers``."""
        return {
            name: TargetLayer(group.in_features, group.out_features[group.names.index(name)])
            for name, group in ((name, projection.group) for name, projection in self._way.projections.items())
        }

    def weight_of(self, name: str) -> Tensor:
        """See ``contract.Runner.weight_of``."""
        return self._way.projections[name].weight_of(name)

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """See ``contract.Runner.forward``."""
        # a step that is taken apart is computed operation by operation
        logits_KV = None if self._graphs is None or self.timer.is_on else self._graphs.forward(rows)
        if logits_KV is None:
            step = make_step(rows, self._device, self.longest_shared)
            blocks = self.bank.plan(step.spans, self.longest_shared)
            head = blocks
            if blocks.layers and not step.is_wanted_whole:
                head = self.bank.plan(step.wanted_spans, self.longest_shared)
            logits_KV = self._way(step, StepLora(blocks, head), self.timer)
        for row in rows:
            row.slot.length += len(row.tokens)
        return logits_KV[:, : self._vocab_size].float()


def _make_way(model: PreTrainedModel, make: Make, ops: Ops, context_tokens: int) -> Pass:
    block = find_own_blocks(model)
    if block is None:
        return TransformersPass(model, make)
    return OwnModel(model, block, make, ops, context_tokens)


def _make_recorder(loaded: LoadedModel, settings: Settings) -> Recorder | None:
    """Make what records steps; None where they are taken without graphs."""
    if not settings.engine_cuda_graphs or loaded.device.type != "cuda" or find_own_blocks(loaded.model) is None:
        return None
    return CudaRecorder()


def _compare_with_transformers(loaded: LoadedModel, ops: Ops, recorder: Recorder | None) -> float:
    """Feed the probes in parts, their last two tokens alike, and hold what follows them against transformers.

    Gives the largest difference of logits, as a share of their spread.

    Raises:
        BaseModelInvalid: it is too large.
    """
    if not loaded.model._supports_attention_backend:
        raise BaseModelInvalid(
            f"{type(loaded.model).__name__} cannot be served: it attends in a way of its own, not through "
            "transformers' attention interface"
        )
    model = _first_blocks(loaded.model)
    expected = [
        model(input_ids=torch.tensor([probe], device=loaded.device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for probe in _PROBES
    ]
    shape = kv_shape(model)
    room = len(_PROBES) * shape.bytes_per_token * loaded.context_tokens
    kv = KvPool(shape, room, loaded.context_tokens)
    vocab_size = len(expected[0])
    way = _make_way(model, maker("model", None), ops, loaded.context_tokens)
    runner = ModelRunner(model, vocab_size, way, kv, columns=0, recorder=recorder)
    first, second = (kv.allocate(len(probe)) for probe in _PROBES)
    assert first is not None, "there is room for all probes"
    assert second is not None, "there is room for all probes"
    long, short = _PROBES
    runner.forward([StepRow(first, long[:3], None, 0)])
    runner.forward([StepRow(first, long[3:5], None, 0), StepRow(second, short[:-2], None, 0)])
    # two of a kind: where steps are recorded, the second replays the first
    runner.forward([StepRow(second, short[-2:-1], None, 1), StepRow(first, long[5:6], None, 1)])
    found_KV = runner.forward([StepRow(second, short[-1:], None, 1), StepRow(first, long[6:], None, 1)])
    wanted_KV = torch.stack(expected[::-1])
    error = float(((found_KV - wanted_KV).abs().amax(dim=1) / wanted_KV.std(dim=1)).max())
    if not error <= _TOLERANCE:  # nor if it is no number
        raise BaseModelInvalid(
            f"{type(loaded.model).__name__} cannot be served: the engine computes other logits than "
            f"transformers does (by {error:.2g} of their spread)"
            + ("" if recorder is None else "; try LORAMILL_ENGINE_CUDA_GRAPHS=false")
        )
    return error


def _first_blocks(model: PreTrainedModel) -> Any:
    """Copy a model with its first blocks only, in float32."""
    decoder: Any = model.base_model
    layers = getattr(decoder, "layers", None)
    if layers is None:
        return deepcopy(model).float()
    count = model.config.num_hidden_layers
    decoder.layers = layers[:_PROBED_BLOCKS]
    model.config.num_hidden_layers = len(decoder.layers)
    try:
        return deepcopy(model).float()
    finally:
        decoder.layers = layers
        model.config.num_hidden_layers = count


def kv_shape(model: PreTrainedModel) -> KvShape:
    """Read from a model's config what its keys and values are."""
    config: Any = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return KvShape(config.num_hidden_layers, kv_heads, head_dim, model.dtype, model.device)


def _kv_bytes(shape: KvShape, loaded: LoadedModel, settings: Settings) -> int:
    free = torch.cuda.mem_get_info()[0] if loaded.device.type == "cuda" else psutil.virtual_memory().available
    return running_bytes(settings, free, shape.bytes_per_token * loaded.context_tokens * settings.engine_max_batch)
