"""What one forward pass of the engine's model is asked for, and who answers: the contract between scheduler and model.

K are the positions whose logits are wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worker.inference.kv_cache.slots import KvPool, KvSlot
from worker.inference.lora.adapter import Adapter
from worker.inference.lora.bank import LoraBank
from worker.inference.model.step_timer import StepTimer


@dataclass(frozen=True)
class StepRow:
    """One request's part of a step: the tokens that are fed, behind what its slot holds already.

    Attributes:
        adapter: ready in the bank; None is the base model.
        wanted: for how many of the last fed tokens the logits that follow them are given. 1 while a request decodes,
            more where draft tokens are verified or a prompt is scored, 0 for a prefill chunk that is not its last.
    """

    slot: KvSlot
    tokens: Sequence[int]
    adapter: Adapter | None
    wanted: int


@dataclass(frozen=True)
class ModelSize:
    """What a step has to do with a model's linear layers.

    Attributes:
        weight_bytes: of all of them, as they are held; every step reads them once.
        block_weights: the numbers in them that every token is multiplied with.
        head_weights: those that only tokens whose logits are wanted are multiplied with.
    """

    weight_bytes: int
    block_weights: int
    head_weights: int


@dataclass(frozen=True)
class TargetLayer:
    """The sizes of a linear layer that adapters can change."""

    in_features: int
    out_features: int


class Runner(Protocol):
    """A model with its cache and its adapters; only the engine's thread uses it, inside ``torch.inference_mode()``.

    Attributes:
        longest_shared: rows of up to so many tokens are computed together, token by token, longer ones one by one.
    """

    longest_shared: int

    @property
    def kv(self) -> KvPool: ...

    @property
    def bank(self) -> LoraBank: ...

    @property
    def size(self) -> ModelSize: ...

    @property
    def timer(self) -> StepTimer:
        """What ``forward`` tells of its parts, in a step that is taken apart."""
        ...

    @property
    def layers(self) -> Mapping[str, TargetLayer]:
        """The layers that adapters can change, by name."""
        ...

    def weight_of(self, name: str) -> Tensor:
        """Give a layer's weights as they are computed with, (O, I)."""
        ...

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """Feed all rows at once; give float32 logits_KV, row by row, without the ids that no token has.

        Each slot is longer by its row's tokens afterwards. When it raises, every slot of these rows is lost: its
        length no longer says what it holds, and it may only be released.
        """
        ...
