"""A base model as an engine takes it: tensors by name where its blocks are our own, else transformers' modules.

Which of the two it is, is decided here, and that the first needs no transformers: what that says of a model is kept,
beside the model by whoever imported it, or in the engine's home. How either is computed is the engine's.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from core.base_models.architectures.architecture import Architecture
from core.base_models.architectures.table import find_architecture
from core.base_models.registry import DType, ImportedModel, read_config, read_imported
from core.errors import BaseModelInvalid
from core.text.tokenizer import TextTokenizer
from worker.models.precision import choose_device, resolve_dtype
from worker.models.reference import BESIDE_MODEL, Reference, read_reference, write_reference
from worker.models.stored_weights import StoredWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

EMBEDDING: Final = "model.embed_tokens.weight"  # as models are stored whose tensors have the names of their modules


@dataclass(frozen=True)
class StoredModel:
    """A model that our own blocks compute.

    Attributes:
        reference: what transformers says of it.
        is_remembered: it said so earlier, and was not asked now.
        kept_in: the file for what it says when it is asked.
    """

    folder: Path
    fingerprint: str
    block: Architecture
    weights: StoredWeights
    reference: Reference
    is_remembered: bool
    kept_in: Path

    def asked_anew(self) -> "StoredModel":
        """Give the model with what transformers says of it now.

        Raises:
            BaseModelInvalid: transformers cannot load it, or its blocks are not our own after all.
        """
        reference = _ask(self.folder, self.kept_in, self.fingerprint)
        if reference is None:
            raise BaseModelInvalid(f"{self.folder} was changed since it was imported; import it again")
        return replace(self, reference=reference, is_remembered=False)


@dataclass(frozen=True)
class EngineModel:
    """A base model with what requests to it must know."""

    source: "StoredModel | PreTrainedModel"
    tokenizer: TextTokenizer
    context_tokens: int
    fingerprint: str
    device: torch.device
    dtype: torch.dtype


def open_engine_model(
    folder: Path, references: Path, *, dtype: DType = "auto", device: torch.device | None = None
) -> EngineModel:
    """Open the model that was imported into ``folder``; of one with our own blocks no weight is read yet.

    Args:
        references: where what transformers says is kept, unless that lies beside the model.
        device: None: the GPU where there is one.

    Raises:
        BaseModelInvalid: the folder is missing, incomplete, or transformers cannot read it.
    """
    imported = read_imported(folder)
    tokenizer = TextTokenizer.from_folder(folder)
    device = device or choose_device()
    resolved = resolve_dtype(dtype)
    source: StoredModel | PreTrainedModel | None = _find_stored(folder, references, imported, device)
    if source is None:
        from worker.models.loading import load_base_model

        source = load_base_model(folder, dtype=dtype, device=device).model
    return EngineModel(source, tokenizer, imported.context_tokens, imported.fingerprint, device, resolved)


def _find_stored(folder: Path, references: Path, imported: ImportedModel, device: torch.device) -> StoredModel | None:
    """Give the model if it is one of our own blocks, all its tensors being there."""
    block = find_architecture(read_config(folder))
    weights = StoredWeights(folder, device)
    if block is None or EMBEDDING not in weights:
        return None
    fingerprint = imported.fingerprint
    kept_in = references / f"{fingerprint}.reference"
    # ours first: it is there because what lies beside the model could not be used
    remembered = read_reference(kept_in, fingerprint) or read_reference(folder / BESIDE_MODEL, fingerprint)
    reference = remembered or _ask(folder, kept_in, fingerprint)
    if reference is None:
        return None
    weights.check(reference.numbers.all_shapes())
    return StoredModel(folder, fingerprint, block, weights, reference, remembered is not None, kept_in)


def _ask(folder: Path, kept_in: Path, fingerprint: str) -> Reference | None:
    """Have transformers say it, and keep it where that can be done."""
    from worker.models.reference_taking import take_reference

    logger.info("what transformers computes for %s is not known yet: it is asked once", folder.name)
    reference = take_reference(folder)
    if reference is not None:
        try:
            write_reference(kept_in, fingerprint, reference)
        except OSError as reason:
            logger.warning("%s cannot be written, so transformers is asked at the next start too: %s", kept_in, reason)
    return reference
