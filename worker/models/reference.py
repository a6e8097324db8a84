"""What transformers says of a base model: what its blocks are made of, and which logits its first blocks give.

An engine that computes a model by blocks of its own holds them against this at every start, without transformers. Here
it is kept and read; ``reference_taking`` has transformers say it. Which blocks compute the same is not known here.
"""

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from core.values import Frozen

logger = logging.getLogger(__name__)

# Two texts of unequal length, so that an engine can feed them in parts beside each other.
PROBES: Final = ((1, 2, 3, 5, 8, 13, 21), (8, 5, 3, 2, 1))
# A way is tried on the first blocks, in float32: blocks are alike, and in bfloat16 thirty of them make so much of their
# rounding that two right ways agree in nothing on a text as meaningless as the probes.
PROBED_BLOCKS: Final = 2

BLOCKS: Final = "model.layers."  # in the names of transformers' modules; a number follows
FIRST_BLOCK: Final = f"{BLOCKS}0."

FORMAT: Final = 1
# Beside a base model's weights. It ends in nothing by which others take a folder's files for weights.
BESIDE_MODEL: Final = "loramill.reference"

_HEADER, _DIGEST = "loramill", "sha256"
_FREQUENCIES, _LOGITS = "frequencies", "logits"


class BlockNumbers(Frozen):
    """Numbers of a model as transformers' modules have them, those included that a config leaves to its defaults.

    Attributes:
        rotation_scale: what the cosines and sines of a rotation are multiplied by.
        is_tied: the head's weight is the embedding.
        shapes: of the tensors that are read of its files, by name; of the blocks, which are alike, those of the first.
    """

    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    attention_scale: float
    norm_epsilon: float
    rotation_scale: float
    is_tied: bool
    shapes: dict[str, tuple[int, ...]]

    def all_shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes with those of every block."""
        every = {name: shape for name, shape in self.shapes.items() if not name.startswith(FIRST_BLOCK)}
        for name, shape in self.shapes.items():
            if name.startswith(FIRST_BLOCK):
                part = name.removeprefix(FIRST_BLOCK)
                every |= {f"{BLOCKS}{number}.{part}": shape for number in range(self.layers)}
        return every


@dataclass(frozen=True)
class Reference:
    """What transformers says of one base model.

    Attributes:
        frequencies_E: a position's angles are its products with them; float32, one for each pair that is rotated.
        logits_KV: float32, what follows each of the probes behind the first blocks; with the ids that no token has.
    """

    numbers: BlockNumbers
    frequencies_E: Tensor
    logits_KV: Tensor


class _Header(Frozen):
    format: int
    transformers: str
    fingerprint: str
    numbers: BlockNumbers


class _NotUsable(Exception):
    """Why a file is not used."""


def read_reference(path: Path, fingerprint: str) -> Reference | None:
    """Read what this version of transformers said of the base model with this fingerprint; None where nothing is kept.

    A file that is damaged, or of another base model, counts as nothing; a line in the log says so.
    """
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in (_FREQUENCIES, _LOGITS)}
        header = _Header.model_validate_json(said.get(_HEADER, ""))
        if (header.format, header.fingerprint) != (FORMAT, fingerprint):
            raise _NotUsable("it is of another format or for another base model")
        if header.transformers != version("transformers"):
            return None  # as after each upgrade
        if said.get(_DIGEST) != _digest(said[_HEADER], tensors):
            raise _NotUsable("it is damaged")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValidationError, _NotUsable) as reason:
        text = reason if isinstance(reason, _NotUsable | OSError) else "it is damaged"
        logger.warning("%s, what transformers computes, is not used and computed again: %s", path, text)
        return None
    return Reference(header.numbers, tensors[_FREQUENCIES], tensors[_LOGITS])


def write_reference(path: Path, fingerprint: str, reference: Reference) -> None:
    """Write a file that `read_reference` reads, whole or not at all, for our eyes only.

    Raises:
        OSError: it cannot be written.
    """
    header = _Header(
        format=FORMAT,
        transformers=version("transformers"),
        fingerprint=fingerprint,
        numbers=reference.numbers,
    ).model_dump_json()
    tensors = {_FREQUENCIES: reference.frequencies_E, _LOGITS: reference.logits_KV}
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, metadata={_HEADER: header, _DIGEST: _digest(header, tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")  # for our eyes only, as mkstemp makes it
    partial = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in (_FREQUENCIES, _LOGITS):
        digest.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
