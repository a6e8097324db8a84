"""A base model with LoRA layers to train: which layers, their start values, their number types.

Several adapters may lie side by side in one base, each a model to train of its own. Injection and names are PEFT's;
loading the base is ``worker.models.loading``, an adapter's files are ``worker.training.output.adapter_files``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.activations import GELUTanh, NewGELUActivation

from core.base_models.shape import resolve_targets
from core.errors import BaseModelUntrainable
from core.jobs.spec import LoraSpec
from worker.models.loading import LoadedModel
from worker.training.data.batches import ONLY_ADAPTER, MicroBatch, collate
from worker.training.data.examples import TokenizedExample
from worker.training.data.plan import pack, pack_padded
from worker.training.model.ablations import ALL, Techniques
from worker.training.model.decoder import DecoderPass, choose_pass
from worker.training.model.frozen_linear import find_own_layer
from worker.training.native.kernels import TrainerKernels

PROBE_IDS = (1, 2, 3, 5, 8)
PROBE_TOLERANCE = 1e-3  # of the largest logit; a head that scales or caps its logits is off by far more


@dataclass(frozen=True)
class LoraModel:
    """The trained model's parts. ``decoder`` gives hidden states after the last norm; ``head`` scores them."""

    peft: PeftModel
    decoder: nn.Module
    head: nn.Linear
    parameters: dict[str, nn.Parameter]  # what is trained, float32, under the names of PEFT's file
    lora: LoraSpec  # with the target modules resolved
    device: torch.device
    dtype: torch.dtype
    decoder_pass: DecoderPass
    techniques: Techniques
    kernels: TrainerKernels | None = None  # None: torch's own operations
    adapter: str = ONLY_ADAPTER  # PEFT's name for it, which its files leave out

    @cached_property
    def joins(self) -> bool:
        """Whether one pass may be over rows of this adapter and of others: PEFT's modules have no part in it."""
        if not (self.decoder_pass.joins and self.techniques.own_lora):
            return False
        layers = (module for module in self.decoder.modules() if isinstance(module, LoraLayer | nn.Linear))
        return all(find_own_layer(layer, [self.adapter]) is not None for layer in layers)

    def activate(self) -> None:
        """Have PEFT's modules compute with this adapter, wherever it is they that compute."""
        if self.peft.active_adapter != self.adapter:
            self.peft.set_adapter(self.adapter)
            _train_all(self.peft)

    def pack(self, lengths: Sequence[int], token_budget: int, *, ranks: int = 1) -> list[list[int]]:
        """Share examples out over micro-batches as this model's pass needs them; see ``worker.training.data.plan``."""
        if self.decoder_pass.padded:
            return pack_padded(lengths, token_budget)
        return pack(lengths, token_budget, ranks=ranks)

    def collate(self, examples: Sequence[TokenizedExample], *, completion_only: bool = False) -> MicroBatch:
        """Lay examples out as this model's pass needs them."""
        return collate(
            examples,
            self.device,
            completion_only=completion_only,
            padded=self.decoder_pass.padded,
            all_rows=not self.techniques.scored_rows,
            adapter=self.adapter,
        )

    def hidden_states(self, batch: MicroBatch, noise_NH: Tensor | None = None) -> Tensor:
        """Run the decoder, to (K, H) at the batch's scored positions; ``noise`` is added to the embeddings.

        A batch may hold rows of several adapters that `joins` is true of; any of their models runs it.
        """
        if not self.joins:
            self.activate()
        with autocast(self.device, self.dtype):
            return self.decoder_pass(batch, noise_NH)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Give the context of every forward pass: bfloat16 products over float32 adapters, or nothing in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def add_lora(
    base: LoadedModel, spec: LoraSpec, seed: int, techniques: Techniques = ALL, kernels: TrainerKernels | None = None
) -> LoraModel:
    """Put LoRA layers into the base, start values drawn from the seed, ready to train.

    Raises:
        TargetModulesUnmatched: a name matches no linear layer, or means the head.
        BaseModelUntrainable: the head does more than one matrix product and a bias.
    """
    causal = base.model
    head = causal.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise BaseModelUntrainable(f"{type(causal).__name__} has no linear head, so it cannot be trained")
    _check_head(base, head)
    targets = resolve_targets(_linear_names(causal, head), spec.target_modules)
    torch.manual_seed(seed)  # A is drawn in the order of the base's layers, on the CPU
    peft = get_peft_model(causal, _config_of(spec, targets))
    peft.train()
    if base.dtype == torch.bfloat16 and techniques.no_input_cast:
        _trust_autocast(peft)
    decoder = causal.get_decoder()
    if not techniques.fused_gelu:
        _unfuse_gelu(decoder)
    decoder_pass = choose_pass(decoder, base.device, lambda: autocast(base.device, base.dtype), techniques, kernels)
    if not techniques.no_checkpointing:
        decoder_pass.checkpointed_blocks = len(decoder.layers)
    parameters = _parameters_of(peft, ONLY_ADAPTER)
    resolved = spec.model_copy(update={"target_modules": targets})
    return LoraModel(
        peft, decoder, head, parameters, resolved, base.device, base.dtype, decoder_pass, techniques, kernels
    )


def add_beside(model: LoraModel, spec: LoraSpec, seed: int) -> LoraModel:
    """Put one more adapter into a model's base, with the start values that `add_lora` would give it.

    Raises:
        TargetModulesUnmatched: a name matches no linear layer, or means the head.
    """
    peft = model.peft
    targets = resolve_targets(_linear_names(peft.get_base_model(), model.head), spec.target_modules)
    adapter = f"arm{len(peft.peft_config)}"
    torch.manual_seed(seed)
    peft.add_adapter(adapter, _config_of(spec, targets))
    peft.train()
    if model.dtype == torch.bfloat16 and model.techniques.no_input_cast:
        _trust_autocast(peft)
    _train_all(peft)
    resolved = spec.model_copy(update={"target_modules": targets})
    return replace(model, parameters=_parameters_of(peft, adapter), lora=resolved, adapter=adapter)


def _config_of(spec: LoraSpec, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT says int, and only divides it
        lora_dropout=spec.dropout,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _parameters_of(peft: PeftModel, adapter: str) -> dict[str, nn.Parameter]:
    """Give what is trained of an adapter, under the names of PEFT's file."""
    parameters = {
        _name_in_file(name, adapter): parameter
        for name, parameter in peft.named_parameters()
        if parameter.requires_grad and f".{adapter}." in name
    }
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values())
    return parameters


def _train_all(peft: PeftModel) -> None:
    """Have all adapters trained: PEFT itself trains the active one alone."""
    for module in peft.modules():
        if isinstance(module, LoraLayer):
            module.set_requires_grad(list(peft.peft_config))


def is_finite(model: LoraModel) -> bool:
    """Tell whether every value of the adapter is a finite number."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters.values())


def _name_in_file(name: str, adapter: str) -> str:
    """Give PEFT's name of a parameter in its file, where DoRA's lengths lie without the module around them."""
    in_file = name.replace(f".{adapter}.", ".")
    return in_file.removesuffix(".weight") if in_file.endswith(".lora_magnitude_vector.weight") else in_file


def _linear_names(causal: nn.Module, head: nn.Linear) -> list[str]:
    """Give the base's own names of its linear layers, whatever adapters lie in it."""
    return [
        name.removesuffix(".base_layer")
        for name, module in causal.named_modules()
        if ".lora_" not in name
        if isinstance(module, nn.Linear) and module is not head
    ]


def _unfuse_gelu(decoder: nn.Module) -> None:
    """Undo what loading the base did, for a comparison."""
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, GELUTanh):
                setattr(module, name, NewGELUActivation())


def _trust_autocast(peft: PeftModel) -> None:
    """Keep PEFT from copying each layer's input to float32: under autocast the product is in bfloat16 anyway.

    The gradients are the same bits; the copies would be kept for backward, 40 % of all activations.
    """
    for module in peft.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def _check_head(base: LoadedModel, head: nn.Linear) -> None:
    """Compare head(decoder(ids)) with the model's own logits, which some architectures scale or cap."""
    ids_BT = torch.tensor([PROBE_IDS], device=base.device)
    with torch.inference_mode():
        expected_BTV = base.model(input_ids=ids_BT, use_cache=False).logits.float()
        hidden_BTH = base.model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
        difference = (head(hidden_BTH).float() - expected_BTV).abs().max()
    if difference > PROBE_TOLERANCE * expected_BTV.abs().max():
        name = type(base.model).__name__
        raise BaseModelUntrainable(
            f"{name} changes its logits after the head, which the trainer does not know how to do"
        )
