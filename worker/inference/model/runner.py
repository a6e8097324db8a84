"""A base model as the engine runs it: its forward pass, the slots of its cache, the bank of its adapters.

Which way through the model it is given, and that this is right, is ``runner_building``'s. Knows no requests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from worker.inference.kv_cache.slots import KvPool
from worker.inference.lora.bank import LoraBank
from worker.inference.lora.step_columns import LONGEST_SHARED
from worker.inference.model.contract import StepRow, TargetLayer
from worker.inference.model.cuda_graphs import DecodeGraphs
from worker.inference.model.cuda_recorder import Recorder
from worker.inference.model.passes.forward_pass import Pass, StepLora, all_groups, biases_of, size_of
from worker.inference.model.step_layout import make_step
from worker.inference.model.step_timer import StepTimer
from worker.inference.tuning.autotuner import Trial


class ModelRunner:
    """Implements ``contract.Runner`` with a model in this process.

    Attributes:
        trials: what times decide of how it computes.
        kernels: the name of the compiled ones; None: none are used.
    """

    def __init__(
        self,
        way: Pass,
        vocab_size: int,
        kv: KvPool,
        columns: int,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        """Take a way that was made; without a ``recorder`` every step is taken without graphs."""
        self.trials: tuple[Trial[Any], ...] = ()
        self.kernels: str | None = None
        self._way = way
        self._device = way.kv_shape.device
        self._vocab_size = vocab_size
        self.kv = kv
        self.longest_shared = LONGEST_SHARED
        self.bank = LoraBank(all_groups(way), columns, biases_of(way))
        self.size = size_of(way)
        self.timer = StepTimer(self._device)
        self._graphs = None if recorder is None else DecodeGraphs(way, self.bank, recorder, self._device)

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
