"""Runs a decoder over a packed micro-batch, to the hidden states that the head reads.

Our own blocks where the architecture has a descriptor, transformers' modules with our packed attention where they take
it, and right-padded rows where they do not. Which of them is right for a model is not assumed but tried, on a few ids.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.table import find_architecture
from worker.training.data.batches import MicroBatch, collate
from worker.training.data.examples import TokenizedExample
from worker.training.model import attention
from worker.training.model.ablations import Techniques
from worker.training.model.blocks import BlockInputs, run_block
from worker.training.model.frozen_linear import Stretch
from worker.training.native.kernels import TrainerKernels

# Two segments of unequal length; a pass that lets one see the other is far off on the second.
_PROBE_IDS: Final = ((1, 2, 3, 5, 8), (8, 5, 3, 2, 1, 4, 7))
# A way is tried on the first blocks only: they are alike, and behind thirty of them rounding would hide an error.
_PROBE_BLOCKS: Final = 2
# Of the hidden states' length; in bfloat16 two right ways differ by half a hundredth behind two blocks.
_PROBE_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class DecoderPass(Protocol):
    """One way to compute hidden states; at the batch's scored positions."""

    padded: bool  # the way needs right-padded examples
    joins: bool  # one pass may be over rows of several adapters
    checkpointed_blocks: int  # the first blocks, which keep only their input and are computed again backwards

    def __call__(self, batch: MicroBatch, noise_NH: Tensor | None = None) -> Tensor:
        """Give (K, H); ``noise`` is added to the embeddings."""
        ...


def choose_pass(
    decoder: PreTrainedModel,
    device: torch.device,
    autocast: Any,
    techniques: Techniques,
    kernels: TrainerKernels | None = None,
) -> DecoderPass:
    """Give the fastest way that computes what transformers computes for each example alone.

    Args:
        autocast: gives the context of a forward pass.
        kernels: of our own blocks; None: they use torch's operations.
    """
    ways: list[DecoderPass] = []
    architecture = find_architecture(decoder.config.to_dict())
    if techniques.own_blocks and techniques.packing and architecture is not None:
        ways.append(OwnPass(decoder, architecture, device, techniques, kernels))
    if techniques.packing and decoder._supports_attention_backend:
        ways.append(PackedPass(decoder, device, techniques))
    ways.append(PaddedPass(decoder))
    for way in ways[:-1]:
        if _is_right(way, ways[-1], decoder, device, autocast):
            return way
    return ways[-1]


class OwnPass:
    """Our blocks, over transformers' weights."""

    padded = False
    joins = True

    def __init__(
        self,
        decoder: Any,
        architecture: Architecture,
        device: torch.device,
        techniques: Techniques,
        kernels: TrainerKernels | None,
    ) -> None:
        self._decoder, self._architecture = decoder, architecture
        self._device, self._techniques, self._kernels = device, techniques, kernels
        self._norm = decoder.get_submodule(architecture.final_norm)
        self.checkpointed_blocks = 0

    @property
    def blocks(self) -> int:
        return len(_layers(self._decoder))

    def for_few_rows(self) -> "OwnPass":
        """Give one by torch's operations: kernels lay weights out for each product, which takes rows to be worth it."""
        return OwnPass(self._decoder, self._architecture, self._device, self._techniques, None)

    def __call__(self, batch: MicroBatch, noise_NH: Tensor | None = None) -> Tensor:
        prepared = attention.make_attention(
            batch.lengths, self._device, self._decoder.dtype, self._techniques, self._kernels
        )
        return self.run(batch, [prepared] * self.blocks, noise_NH)

    def run(
        self, batch: MicroBatch, attentions: Sequence[attention.Attention], noise_NH: Tensor | None = None
    ) -> Tensor:
        """Give (K, H), with an attention for each block, which may know what the block has read before."""
        states = _embed(self._decoder, batch, noise_NH)
        inputs = self._inputs(batch, attentions[0])
        layers = _layers(self._decoder)
        has_last_rows_only = self._techniques.last_block_rows
        for number, (layer, own) in enumerate(zip(layers, attentions, strict=True)):
            inputs = replace(inputs, attention=own)
            rows = batch.positions_K if has_last_rows_only and number == len(layers) - 1 else None
            if number < self.checkpointed_blocks and torch.is_grad_enabled():
                computed_twice = replace(inputs, keeps_less=False)  # whole, so nothing of it is kept anyway
                states = checkpoint(run_block, layer, states, computed_twice, rows, use_reentrant=False)
            else:
                states = run_block(layer, states, inputs, rows)
        normed: Tensor = self._norm(states)
        return normed if has_last_rows_only else normed.index_select(0, batch.positions_K)

    def _inputs(self, batch: MicroBatch, first: attention.Attention) -> BlockInputs:
        # float32, since transformers would give the angles' cosines in its input's type
        like = torch.empty(0, dtype=torch.float32, device=self._device)
        cos_1NE, sin_1NE = self._decoder.rotary_emb(like, batch.places_N[None])
        return BlockInputs(
            self._architecture,
            first,
            cos_1NE[0],
            sin_1NE[0],
            _stretches((one.adapter, one.inputs) for one in batch.owned),
            _stretches((one.adapter, one.scored) for one in batch.owned),
            self._techniques,
            self._kernels,
            keeps_less=self._kernels is not None,
        )


class _ModulesPass:
    """What the two ways through transformers' modules share: which layers keep only their input.

    ``around`` gives the context in which a layer is computed the second time, when the forward pass is long over.
    """

    joins = False

    def __init__(self, decoder: Any, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._decoder = decoder
        self._checkpoint = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), around()))
        self._checkpointed_blocks = 0

    @property
    def checkpointed_blocks(self) -> int:
        return self._checkpointed_blocks

    @checkpointed_blocks.setter
    def checkpointed_blocks(self, blocks: int) -> None:
        self._checkpointed_blocks = blocks
        for number, layer in enumerate(_layers(self._decoder)):
            layer.gradient_checkpointing = number < blocks
            layer._gradient_checkpointing_func = self._checkpoint


class PackedPass(_ModulesPass):
    """transformers' modules, with our attention in place of theirs for the time of a call."""

    padded = False

    def __init__(self, decoder: Any, device: torch.device, techniques: Techniques) -> None:
        super().__init__(decoder, lambda: _packed_attention(decoder.config))
        self._device, self._techniques = device, techniques

    def __call__(self, batch: MicroBatch, noise_NH: Tensor | None = None) -> Tensor:
        packed = attention.make_attention(batch.lengths, self._device, self._decoder.dtype, self._techniques)
        with _packed_attention(self._decoder.config):
            # No cache: with one, transformers would take the segments for a single text.
            output = self._decoder(
                inputs_embeds=_embed(self._decoder, batch, noise_NH)[None],
                position_ids=batch.places_N[None],
                use_cache=False,
                packed=packed,
            )
        hidden_1NH: Tensor = output.last_hidden_state
        return hidden_1NH[0].index_select(0, batch.positions_K)


class PaddedPass(_ModulesPass):
    """transformers as it is, over right-padded rows, which causal attention needs no mask for."""

    padded = True

    def __call__(self, batch: MicroBatch, noise_NH: Tensor | None = None) -> Tensor:
        assert len(set(batch.lengths)) == 1
        embedded = _embed(self._decoder, batch, noise_NH).unflatten(0, (len(batch.lengths), batch.lengths[0]))
        hidden_BTH: Tensor = self._decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return hidden_BTH.flatten(0, 1).index_select(0, batch.positions_K)


@contextmanager
def _packed_attention(config: Any) -> Iterator[None]:
    """Have transformers call our attention; afterwards its own, which generates text."""
    usual, config._attn_implementation = config._attn_implementation, attention.NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


@contextmanager
def _first_blocks(config: Any) -> Iterator[None]:
    """Have transformers stop early, as its own loop over the layers allows."""
    usual = config.num_hidden_layers
    config.num_hidden_layers = min(usual, _PROBE_BLOCKS)
    try:
        yield
    finally:
        config.num_hidden_layers = usual


def _stretches(owned: Iterable[tuple[str, int]]) -> list[Stretch]:
    """Give each adapter's rows, so many one behind the other."""
    stretches: list[Stretch] = []
    for adapter, rows in owned:
        begin = stretches[-1].rows.stop if stretches else 0
        stretches.append(Stretch(adapter, slice(begin, begin + rows)))
    return stretches


def _layers(decoder: Any) -> Any:
    return getattr(decoder, "layers", ())[: decoder.config.num_hidden_layers]


def _embed(decoder: Any, batch: MicroBatch, noise_NH: Tensor | None) -> Tensor:
    embedded: Tensor = nn.functional.embedding(batch.input_ids_N, decoder.get_input_embeddings().weight)
    return embedded if noise_NH is None else (embedded + noise_NH).to(embedded.dtype)


def _is_right(way: DecoderPass, plain: DecoderPass, decoder: Any, device: torch.device, autocast: Any) -> bool:
    """Compare with one example at a time, the last rows of each."""
    examples = [_probe_example(ids) for ids in _PROBE_IDS]
    with torch.inference_mode(), autocast(), _first_blocks(decoder.config):
        hidden_KH = way(collate(examples, device, padded=way.padded)).float()
        expected_KH = torch.cat([plain(collate([example], device, padded=True)) for example in examples]).float()
    return bool((hidden_KH - expected_KH).norm() <= _PROBE_TOLERANCE[decoder.dtype] * expected_KH.norm())


def _probe_example(ids: tuple[int, ...]) -> TokenizedExample:
    import numpy as np

    weights_T = np.array([0.0] + [1.0] * (len(ids) - 1), dtype=np.float32)
    return TokenizedExample(np.array(ids, dtype=np.int32), weights_T, weights_T > 0)
