"""AdamW over the adapter's parameters, its learning rate, and its state as plain tensors."""

import math

import torch
from torch import Tensor, nn

# AdamW's published defaults (Loshchilov and Hutter 2019; torch.optim.AdamW), and no weight decay:
# B starts at zero, so the adapter is small already, and QLoRA (2305.14314) trains without it too.
BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.0
CLIP_NORM = 1.0

WARMUP_SHARE = 0.03  # QLoRA's warm-up ratio
MIN_WARMUP_STEPS = 5
MAX_WARMUP_SHARE = 0.1  # so that a run of a few steps is not all warm-up


def learning_rate_factor(step: int, total_steps: int) -> float:
    """Give the share of the peak rate for the step after ``step`` steps: linear up, then linear down.

    Warm-up is 3 % of the steps, at least 5 but at most a tenth. No step has rate 0: with 100 steps
    the first has 1/6, step 5 has 1, the last 1/95.
    """
    warmup = min(max(MIN_WARMUP_STEPS, math.ceil(WARMUP_SHARE * total_steps)), int(MAX_WARMUP_SHARE * total_steps))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (total_steps - step) / (total_steps - warmup)


class AdapterOptimizer:
    """One optimizer step at a time, over parameters that it knows by name."""

    def __init__(self, parameters: dict[str, nn.Parameter], peak_learning_rate: float, total_steps: int) -> None:
        self._parameters = parameters
        self._peak_learning_rate = peak_learning_rate
        self._total_steps = total_steps
        self._adam = torch.optim.AdamW(
            parameters.values(), betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True
        )

    def clip(self) -> float:
        """Scale the gradients down to `CLIP_NORM` if they are longer; give the length they had."""
        return float(nn.utils.clip_grad_norm_(self._parameters.values(), CLIP_NORM))

    def step(self, step: int) -> float:
        """Take the step after ``step`` steps, drop the gradients, and give the learning rate used."""
        learning_rate = self._peak_learning_rate * learning_rate_factor(step, self._total_steps)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
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
