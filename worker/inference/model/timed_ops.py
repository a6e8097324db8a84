"""The operations of a decoder block with the time of each told to the step's timer; what computes them is given."""

from torch import Tensor

from worker.inference.lora.bank import LoraGroup
from worker.inference.lora.step_columns import LoraPlan
from worker.inference.model.block_parts import Heads
from worker.inference.model.ops import Ops, Rotation
from worker.inference.model.projections.adapted_projection import AdaptedProjection
from worker.inference.model.step_layout import Step
from worker.inference.model.step_part import StepPart
from worker.inference.model.step_timer import StepTimer


class TimedOps:
    """Implements ``ops.Ops`` for a step that is taken apart."""

    def __init__(self, ops: Ops, timer: StepTimer) -> None:
        self._ops, self._timer = ops, timer

    def project(self, projection: AdaptedProjection, x_NI: Tensor) -> Tensor:
        with self._timer.part(StepPart.LINEAR):
            return self._ops.project(projection, x_NI)

    def project_onto(self, states_NO: Tensor, projection: AdaptedProjection, x_NI: Tensor) -> Tensor:
        with self._timer.part(StepPart.LINEAR):
            return self._ops.project_onto(states_NO, projection, x_NI)

    def attend(self, qkv_NO: Tensor, heads: Heads, rotation: Rotation, step: Step, layer: int) -> Tensor:
        with self._timer.part(StepPart.ATTENTION):
            return self._ops.attend(qkv_NO, heads, rotation, step, layer)

    def add_lora(self, group: LoraGroup, x_NI: Tensor, y_NO: Tensor, plan: LoraPlan) -> None:
        with self._timer.part(StepPart.LORA):
            self._ops.add_lora(group, x_NI, y_NO, plan)

    def rms_norm(self, x_NH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        return self._ops.rms_norm(x_NH, weight_H, epsilon)

    def layer_norm(self, x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
        return self._ops.layer_norm(x_NH, weight_H, bias_H, epsilon)

    def gated_silu(self, gate_up_NI: Tensor) -> Tensor:
        return self._ops.gated_silu(gate_up_NI)

    def gelu_tanh(self, x_NI: Tensor) -> Tensor:
        return self._ops.gelu_tanh(x_NI)
