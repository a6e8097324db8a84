"""Peers that answer mixes for the correctness section, in this process or behind their HTTP.

Each gives, row by row, the ids it generated, or the error that it answered with.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.correctness.field import Outcome
from benchmarks.correctness.mixes import Mix, MixRow
from benchmarks.peers.peft_models import BASE, load_adapters
from benchmarks.serving.steps import greedy


class PeftBatch:
    """PEFT's mixed batches: all rows at once, padded on the left, each with its name in ``adapter_names``."""

    def __init__(
        self, base: Path, adapters: Mapping[int, Path], prompts: Sequence[Sequence[int]], *, vocabulary: int
    ) -> None:
        named = {f"m{number}": folder for number, folder in adapters.items()}
        self._model = load_adapters(base, named, torch.float32, vocabulary=vocabulary)
        self._prompts = prompts

    async def answer(self, mix: Mix) -> list[Outcome]:
        prompts = [self._prompts[row.prompt] for row in mix]
        width = max(map(len, prompts))
        ids_BT = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        most = max(row.max_tokens for row in mix)
        with torch.inference_mode():
            out_BT = self._model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=greedy(most),
                adapter_names=[BASE if row.adapter is None else f"m{row.adapter}" for row in mix],
            )
        return [ids[width : width + row.max_tokens] for ids, row in zip(out_BT.tolist(), mix, strict=True)]


class ContinuousBatches:
    """transformers' continuous batching under PEFT: rows of one adapter after those of another.

    The adapter is switched while the manager pauses. With ``shares_blocks`` cached prompts are used again, whatever
    adapter they were computed with; it is the default of transformers. Pages are of 16 tokens instead of 256, so that
    short prompts fill some.
    """

    def __init__(
        self,
        base: Path,
        adapters: Mapping[int, Path],
        prompts: Sequence[Sequence[int]],
        *,
        vocabulary: int,
        shares_blocks: bool,
        page_tokens: int = 16,
        blocks: int = 256,
    ) -> None:
        named = {f"m{number}": folder for number, folder in adapters.items()}
        self._model = load_adapters(base, named, torch.float32, vocabulary=vocabulary)
        self._prompts = prompts
        config = GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=-1, pad_token_id=0)
        inner = self._model.get_base_model()
        inner.set_attn_implementation("sdpa")
        self._manager = inner.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                allow_block_sharing=shares_blocks,
                page_size=page_tokens,
                num_blocks=blocks,
                max_batch_tokens=256,
            ),
        )
        self._manager.start()
        self._numbers = itertools.count()

    async def answer(self, mix: Mix) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for adapter in sorted({row.adapter for row in mix}, key=lambda one: -1 if one is None else one):
            with self._manager.pause():
                self._switch(adapter)
            places = [place for place, row in enumerate(mix) if row.adapter == adapter]
            outcomes |= zip(places, self._answer_rows([mix[place] for place in places]), strict=True)
        return [outcomes[place] for place in range(len(mix))]

    def close(self) -> None:
        self._manager.stop(block=True)

    def _switch(self, adapter: int | None) -> None:
        layers = self._model.base_model
        if adapter is None:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            layers.set_adapter(f"m{adapter}")

    def _answer_rows(self, rows: Sequence[MixRow]) -> list[Outcome]:
        names = [f"row-{next(self._numbers)}" for _ in rows]
        for name, row in zip(names, rows, strict=True):
            self._manager.add_request(list(self._prompts[row.prompt]), request_id=name, max_new_tokens=row.max_tokens)
        outcomes: dict[str, Outcome] = {}
        while len(outcomes) < len(names):
            result = self._manager.get_result(timeout=60)
            if result is None:
                error = RuntimeError("continuous batching gave no result within a minute")
                return [outcomes.get(name, error) for name in names]
            if result.is_finished() or result.error is not None:
                outcomes[result.request_id] = (
                    RuntimeError(result.error) if result.error else list(result.generated_tokens)
                )
        return [outcomes[name] for name in names]


class VllmContestant:
    """vLLM behind its HTTP; every row of a mix is sent at once."""

    def __init__(self, url: str, base_model: str, prompts: Sequence[Sequence[int]]) -> None:
        self._url = url
        self._base_model = base_model
        self._prompts = prompts

    async def answer(self, mix: Mix) -> list[Outcome]:
        async with httpx2.AsyncClient(timeout=300, trust_env=False) as http:
            return list(await asyncio.gather(*(self._row(http, row) for row in mix)))

    async def _row(self, http: httpx2.AsyncClient, row: MixRow) -> Outcome:
        fields = {
            "model": self._base_model if row.adapter is None else f"m{row.adapter}",
            "prompt": list(self._prompts[row.prompt]),
            "max_tokens": row.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        response = await http.post(f"{self._url}/v1/completions", json=fields)
        if response.status_code != 200:
            return RuntimeError(response.text[:300])
        ids: list[int] = response.json()["choices"][0]["token_ids"]
        return ids
