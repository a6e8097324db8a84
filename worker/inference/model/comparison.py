"""How far a way through a model is from what transformers computes, on texts that mean nothing.

Where transformers' logits come from is the caller's, and so is what follows when a way is too far off.
"""

from typing import Final

from torch import Tensor

from worker.inference.kv_cache.slots import KvPool
from worker.inference.model.contract import StepRow
from worker.inference.model.cuda_recorder import Recorder
from worker.inference.model.passes.forward_pass import Pass
from worker.inference.model.runner import ModelRunner
from worker.models.reference import PROBES

TOLERANCE: Final = 1e-3  # of the logits' spread


def distance(way: Pass, wanted_KV: Tensor, context_tokens: int, recorder: Recorder | None) -> float:
    """Feed the probes in parts, their last two tokens alike, and hold what follows each against ``wanted``.

    Gives the largest difference of logits, as a share of their spread; NaN where a logit is no number.
    """
    shape = way.kv_shape
    kv = KvPool(shape, len(PROBES) * shape.bytes_per_token * context_tokens, context_tokens)
    runner = ModelRunner(way, wanted_KV.shape[1], kv, columns=0, recorder=recorder)
    first, second = (kv.allocate(len(probe)) for probe in PROBES)
    assert first is not None, "there is room for all probes"
    assert second is not None, "there is room for all probes"
    long, short = PROBES
    runner.forward([StepRow(first, long[:3], None, 0)])
    runner.forward([StepRow(first, long[3:5], None, 0), StepRow(second, short[:-2], None, 0)])
    # two of a kind: where steps are recorded, the second replays the first
    runner.forward([StepRow(second, short[-2:-1], None, 1), StepRow(first, long[5:6], None, 1)])
    found_KV = runner.forward([StepRow(second, short[-1:], None, 1), StepRow(first, long[6:], None, 1)])
    wanted_KV = wanted_KV.flip(0).to(found_KV.device)
    return float(((found_KV - wanted_KV).abs().amax(dim=1) / wanted_KV.std(dim=1)).max())
