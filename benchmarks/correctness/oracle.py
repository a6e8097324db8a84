"""What PEFT says to each prompt with each adapter alone, in float32: the standard that answers are judged by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.correctness.mixes import ExpectedRow
from benchmarks.peers.peft_models import load_adapters


class PeftOracle:
    """PEFT over one base model, one prompt at a time: no padding, no batch, its own cache."""

    def __init__(self, base: Path, adapters: Mapping[int, Path], *, vocabulary: int) -> None:
        """Load all adapters beside each other; ``vocabulary`` is how many ids are tokens."""
        named = {f"m{number}": folder for number, folder in adapters.items()}
        self._model = load_adapters(base, named, torch.float32, vocabulary=vocabulary)

    def answers(
        self, models: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int
    ) -> dict[tuple[int | None, int], ExpectedRow]:
        """Give the greedy answer of each model to each prompt."""
        expected = {}
        with torch.inference_mode():
            for model in models:
                if model is not None:
                    self._model.set_adapter(f"m{model}")
                for number, prompt in enumerate(prompts):
                    expected[model, number] = self._greedy(model, prompt, tokens)
        return expected

    def _greedy(self, model: int | None, prompt: Sequence[int], tokens: int) -> ExpectedRow:
        ids, margins, cache, fed = [], [], None, list(prompt)
        for _ in range(tokens):
            out = self._forward(model, torch.tensor([fed], device=self._model.device), cache)
            cache = out.past_key_values
            top = out.logits[0, -1].topk(2)
            margins.append(float(top.values[0] - top.values[1]))
            fed = [int(top.indices[0])]
            ids += fed
        return ExpectedRow(tuple(ids), tuple(margins))

    def _forward(self, model: int | None, ids_1T: torch.Tensor, cache: Any) -> Any:
        kwargs: dict[str, Any] = {
            "input_ids": ids_1T,
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if model is not None or not hasattr(self._model, "disable_adapter"):
            return self._model(**kwargs)
        with self._model.disable_adapter():
            return self._model(**kwargs)
