"""Random adapters in memory, as a runner's bank takes them: the same number gives the same factors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.inference.lora.adapter import Adapter, LoraPair
from worker.inference.model.runner import ModelRunner


def place_random(
    runners: Sequence[ModelRunner], number: int, rank: int, *targets: str, has_dora: bool = False
) -> Adapter:
    """Make an adapter of the layers whose names end so, by default all, and place it in the banks of alike runners."""
    generator = torch.Generator().manual_seed(number)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(runners[0].kv.shape.device) * 0.2

    pairs = {
        name: LoraPair(
            draw(rank, layer.in_features),
            draw(rank, layer.out_features),
            1 + draw(layer.out_features) if has_dora else None,
        )
        for name, layer in runners[0].layers.items()
        if not targets or name.split(".")[-1] in targets
    }
    adapter = Adapter(f"digest-{number}", pairs, None, 0)  # type: ignore[arg-type] # nothing is rendered here
    place(runners, adapter)
    return adapter


def place(runners: Sequence[ModelRunner], adapter: Adapter) -> None:
    for each in runners:
        assert each.bank.reserve(adapter)
        assert not each.bank.copy_some(2**40)
