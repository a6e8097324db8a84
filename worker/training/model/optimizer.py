"""AdamW over the adapter's parameters, their learning rates, and its state as plain tensors.

How the rate moves over a run is ``core.jobs.learning_rate``.
"""

import math

import torch
from torch import Tensor, nn

from core.jobs.learning_rate import Schedule
from core.jobs.spec import JobSpec

# AdamW's published defaults (Loshchilov and Hutter 2019; torch.optim.AdamW).
BETAS = (0.9, 0.999)
EPSILON = 1e-8


class AdapterOptimizer:
    """One optimizer step at a time, over parameters that it knows by name, as a job says.

    With a LoRA+ ratio (2402.12354) every B, and DoRA's lengths, learn at that many times the rate of A.
    Weight decay pulls on A and B, by their own rate; a length is never pulled to zero.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], job: JobSpec, total_steps: int) -> None:
        self._parameters = parameters
        self._peak_learning_rate = job.learning_rate
        self._schedule = Schedule(total_steps, job.lr_scheduler_type, job.warmup_ratio)
        self._clip_norm = job.max_grad_norm or math.inf
        grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            is_a, is_length = ".lora_A." in name, parameter.ndim == 1
            key = (1.0 if is_a else job.loraplus_lr_ratio, 0.0 if is_length else job.weight_decay)
            grouped.setdefault(key, []).append(parameter)
        groups = [
            {"params": members, "rate_ratio": ratio, "weight_decay": decay}
            for (ratio, decay), members in grouped.items()
        ]
        self._adam = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)

    def clip(self) -> float:
        """Scale the gradients down to ``max_grad_norm`` if they are longer; give the length they had."""
        return float(nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm))

    def step(self, step: int) -> float:
        """Take the step after ``step`` steps, drop the gradients, and give the learning rate of A."""
        learning_rate = self._peak_learning_rate * self._schedule.factor(step)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate * group["rate_ratio"]
        self._adam.step()
        self.drop_gradients()
        return learning_rate

    def drop_gradients(self) -> None:
        """Forget a step that was not finished."""
        self._adam.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Give both moments of every parameter, named ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>``."""
        return {
            f"{moment}.{name}": self._adam.state[parameter][moment]
            for name, parameter in self._parameters.items()
            for moment in ("exp_avg", "exp_avg_sq")
        }

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take over the moments after ``steps`` steps."""
        for name, parameter in self._parameters.items():
            self._adam.state[parameter] = {
                # fused AdamW counts in a float tensor on the parameter's device
                "step": torch.tensor(float(steps), device=parameter.device),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
