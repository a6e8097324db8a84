"""How prompts go on, token by token: the logits behind each text, by the pass that the model is trained with.

Where that is our own blocks, they keep keys and values of what they have read; where it is transformers' modules, its
own cache does, which the first way is held against. Chooses no token. Axis letters: B texts, N rows of one pass,
L places in a text, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from worker.training.data.batches import ROWS_MULTIPLE, MicroBatch, Owned, collate
from worker.training.data.examples import TokenizedExample
from worker.training.model.attention import Attention, make_attention
from worker.training.model.decoder import OwnPass
from worker.training.model.lora import LoraModel, autocast

_PADDING_ID: Final = 0  # any valid id: padded places are masked
# A trainer's threads sleep while they wait (``core.process.threads``). To wake one takes a tenth of a millisecond or
# more, and a token has hundreds of products: below so many bytes of weights, one core is done sooner.
_WORTH_WAKING_BYTES: Final = 2**31


class Continuation(Protocol):
    """Texts that have begun with their prompts."""

    def read_prompts(self) -> Tensor:
        """Give the logits (B, V) behind the prompts; once, before all else."""
        ...

    def read(self, ids_B: Tensor) -> Tensor:
        """Give the logits (B, V) behind one more token of each text."""
        ...


def continue_texts(model: LoraModel, prompts: Sequence[Sequence[int]], room: int) -> Continuation:
    """Begin texts that get ``room`` more tokens each, at most."""
    if isinstance(model.decoder_pass, OwnPass):
        return OwnContinuation(model, model.decoder_pass, prompts, room)
    return ModulesContinuation(model, prompts)


class ModulesContinuation:
    """transformers' modules with PEFT's in them, and transformers' cache; prompts are padded on the left."""

    def __init__(self, model: LoraModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        width = max(map(len, prompts))
        missing = [width - len(prompt) for prompt in prompts]
        ids = [[_PADDING_ID] * gap + list(prompt) for gap, prompt in zip(missing, prompts, strict=True)]
        self._prompts_BL = torch.tensor(ids, device=model.device)
        mask = [[0] * gap + [1] * (width - gap) for gap in missing]
        self._mask_BL = torch.tensor(mask, device=model.device)
        self._cache = DynamicCache()

    def read_prompts(self) -> Tensor:
        return self._logits(self._prompts_BL)

    def read(self, ids_B: Tensor) -> Tensor:
        self._mask_BL = torch.cat([self._mask_BL, torch.ones_like(ids_B)[:, None]], dim=1)
        return self._logits(ids_B[:, None])

    def _logits(self, fed_BL: Tensor) -> Tensor:
        places_BL = (self._mask_BL.cumsum(dim=1) - 1).clamp(min=0)[:, -fed_BL.shape[1] :]
        causal: Any = self._model.peft
        with torch.inference_mode(), autocast(self._model.device, self._model.dtype):
            logits_BLV: Tensor = causal(
                input_ids=fed_BL,
                attention_mask=self._mask_BL,
                position_ids=places_BL,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits_BLV[:, -1]


class OwnContinuation:
    """Our own blocks over packed rows, each with its keys and values of all texts."""

    def __init__(self, model: LoraModel, way: OwnPass, prompts: Sequence[Sequence[int]], room: int) -> None:
        self._model, self._prompt_pass, self._token_pass = model, way, way.for_few_rows()
        self._prompts = collate([_ending_behind(prompt) for prompt in prompts], model.device, adapter=model.adapter)
        self._lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        # the last prompt is padded a little, so that the pass has few different sizes
        places = max(map(len, prompts)) + max(room, ROWS_MULTIPLE)
        self._caches = [_BlockCache(len(prompts), places) for _ in range(way.blocks)]

    def read_prompts(self) -> Tensor:
        batch = self._prompts
        packed = make_attention(
            batch.lengths, self._model.device, self._model.dtype, self._model.techniques, self._model.kernels
        )
        texts_B = torch.arange(len(batch.lengths), device=self._model.device)
        text_N = texts_B.repeat_interleave(torch.tensor(batch.lengths, device=self._model.device))
        attentions = [_PromptAttention(cache, packed, text_N, batch.places_N) for cache in self._caches]
        return self._logits(self._prompt_pass, batch, attentions)

    def read(self, ids_B: Tensor) -> Tensor:
        longest = int(self._lengths_B.max()) + 1
        attentions = [_TokenAttention(cache, self._lengths_B, longest) for cache in self._caches]
        with _on_one_core(self._model):
            logits_BV = self._logits(self._token_pass, self._next_rows(ids_B), attentions)
        self._lengths_B = self._lengths_B + 1
        return logits_BV

    def _next_rows(self, ids_B: Tensor) -> MicroBatch:
        texts = len(ids_B)
        return MicroBatch(
            input_ids_N=ids_B,
            places_N=self._lengths_B,
            lengths=(1,) * texts,
            inputs=(1,) * texts,
            positions_K=torch.arange(texts, device=ids_B.device),
            targets_K=ids_B,
            weights_K=torch.ones(texts, device=ids_B.device),
            is_completion_K=torch.ones(texts, dtype=torch.bool, device=ids_B.device),
            tokens=texts,
            owned=(Owned(self._model.adapter, inputs=texts, scored=texts),),
        )

    def _logits(self, way: OwnPass, batch: MicroBatch, attentions: Sequence[Attention]) -> Tensor:
        with torch.inference_mode(), autocast(self._model.device, self._model.dtype):
            hidden_BH = way.run(batch, attentions)
            logits_BV: Tensor = self._model.head(hidden_BH)
        return logits_BV


@contextmanager
def _on_one_core(model: LoraModel) -> Iterator[None]:
    """Have a CPU's other cores sleep meanwhile, where a model is so small that waking them takes longer."""
    threads = torch.get_num_threads()
    weight_bytes = sum(parameter.nbytes for parameter in model.decoder.parameters())
    if model.device.type == "cpu" and weight_bytes < _WORTH_WAKING_BYTES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ending_behind(prompt: Sequence[int]) -> TokenizedExample:
    """Make an example whose only scored position is the prompt's last."""
    weights_T = np.array([0.0] * len(prompt) + [1.0], dtype=np.float32)
    return TokenizedExample(np.array([*prompt, _PADDING_ID], dtype=np.int32), weights_T, weights_T > 0)


class _BlockCache:
    """What one block has read of all texts: keys and values (B, L, G, D), without meaning behind a text's length."""

    def __init__(self, texts: int, places: int) -> None:
        self._size = (texts, places)
        self.keys_BLGD = self.values_BLGD = torch.empty(0)

    def keep(self, text_N: Tensor, place_N: Tensor, key_NGD: Tensor, value_NGD: Tensor) -> None:
        if not self.keys_BLGD.numel():
            self.keys_BLGD, self.values_BLGD = (
                tensor.new_zeros(*self._size, *tensor.shape[1:]) for tensor in (key_NGD, value_NGD)
            )
        self.keys_BLGD[text_N, place_N] = key_NGD
        self.values_BLGD[text_N, place_N] = value_NGD


class _PromptAttention:
    """Attention inside each prompt, which the cache keeps."""

    def __init__(self, cache: _BlockCache, packed: Attention, text_N: Tensor, place_N: Tensor) -> None:
        self._cache, self._packed, self._text_N, self._place_N = cache, packed, text_N, place_N

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        self._cache.keep(self._text_N, self._place_N, key_NGD, value_NGD)
        return self._packed(query_NAD, key_NGD, value_NGD, scale, window)


class _TokenAttention:
    """Attention of one more token of each text to all before it and to itself."""

    def __init__(self, cache: _BlockCache, lengths_B: Tensor, longest: int) -> None:
        self._cache, self._lengths_B, self._longest = cache, lengths_B, longest

    def __call__(
        self, query_NAD: Tensor, key_NGD: Tensor, value_NGD: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        assert window is None, "our own blocks know no windows"
        texts_B = torch.arange(len(self._lengths_B), device=self._lengths_B.device)
        self._cache.keep(texts_B, self._lengths_B, key_NGD, value_NGD)
        key_BGLD, value_BGLD = (
            kept[:, : self._longest].transpose(1, 2) for kept in (self._cache.keys_BLGD, self._cache.values_BLGD)
        )
        place_L, last_B1 = torch.arange(self._longest, device=texts_B.device), self._lengths_B[:, None]
        attended_BA1D = nn.functional.scaled_dot_product_attention(
            query_NAD[:, :, None],
            key_BGLD,
            value_BGLD,
            (place_L <= last_B1)[:, None, None],
            scale=scale,
            enable_gqa=query_NAD.shape[1] != key_NGD.shape[1],
        )
        return attended_BA1D[:, :, 0]
