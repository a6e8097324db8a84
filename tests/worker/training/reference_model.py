"""The trained model as transformers and PEFT alone make it, and a step's loss and gradient by their definition.

Shares nothing with ``worker.training`` but the adapter's values: neither its modules, nor its loss, nor its cut
of a step into micro-batches. In float64 it is the truth that float32 is held to.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from worker.training.data.examples import TokenizedExample
from worker.training.model.lora import LoraModel

Gradient = dict[str, Tensor]


def reference_model(base: Path, model: LoraModel, dtype: torch.dtype) -> PeftModel:
    """Build the model anew, with the same adapter, the base's own dropout off and its adapter trainable."""
    config = AutoConfig.from_pretrained(base, resid_pdrop=0.0, pad_token_id=None)
    causal = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=dtype, attn_implementation="eager")
    spec = model.lora
    lora = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT says int, and only divides it
        target_modules=list(spec.target_modules or ()),
        task_type="CAUSAL_LM",
    )
    peft: Any = get_peft_model(causal, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in adapter_of(peft).items():
            parameter.copy_(model.parameters[name])
    return peft.to(dtype)  # type: ignore[no-any-return]


def adapter_of(peft: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Give the trained parameters under the names of PEFT's file."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in peft.named_parameters()
        if parameter.requires_grad
    }


def step_by_definition(peft: PeftModel, examples: Iterable[TokenizedExample]) -> tuple[float, Gradient]:
    """Give sum(weight * nll) / sum(weight) over all positions that a token is predicted at, and its gradient."""
    weighted, weight = torch.zeros((), dtype=torch.float64), 0.0
    for example in examples:
        ids_T = torch.tensor(example.ids_T, dtype=torch.int64)
        weights_T = torch.tensor(example.weights_T, dtype=torch.float64)[1:]
        logprobs_TV = peft(input_ids=ids_T[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
        nll_T = -logprobs_TV.gather(1, ids_T[1:, None]).squeeze(1)
        weighted = weighted + (nll_T * weights_T).sum()
        weight += float(weights_T.sum())
    (weighted / weight).backward()
    return float(weighted.detach()) / weight, take_gradient(adapter_of(peft))


def take_gradient(parameters: dict[str, torch.nn.Parameter]) -> Gradient:
    """Give a copy of the gradient of every parameter, and leave none behind."""
    taken = {}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        taken[name] = parameter.grad.clone()
        parameter.grad = None
    return taken


def relative_error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Give the length of the difference over the length of theirs, all tensors taken as one vector."""
    assert set(ours) == set(theirs)
    with torch.no_grad():
        difference = torch.stack([(ours[name].double() - theirs[name].double()).norm() for name in theirs]).norm()
        return float(difference / torch.stack([tensor.double().norm() for tensor in theirs.values()]).norm())
