"""Checkpoints on disk: whole or absent, verified before use, and bound to the run that wrote them.

A checkpoint's folder holds ``adapter/`` (which can be served), the optimizer's moments, ``state.json``
and a manifest, written last, with the SHA-256 of each file; also ``best/``, the adapter of the best evaluated
step, where it is kept and is not this one. Nothing in it can execute code.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CheckpointInvalid
from core.jobs.events import EventLevel
from core.process.durability import wait_for_disk
from core.provenance.record import Stint
from core.serving.adapter_format import FileDigest, canonical_json, digest_file, write_durably
from core.values import Frozen
from worker.trainer_process.messages import Evaluated
from worker.trainer_process.run_folder import ADAPTER
from worker.training.measure.early_stopping import Standing
from worker.training.process.reporter import Reporter, note

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
BEST = "best"

KEPT = 2
INCOMING = ".incoming"  # suffix of a folder that is being written


class CheckpointManifest(Frozen):
    files: dict[str, FileDigest]  # by path inside the folder


class CheckpointState(Frozen):
    """Where a run stands, beside its tensors. Random numbers are functions of seed and step, so none are kept."""

    step: int
    identity: dict[str, str]  # what the run is made of; another identity cannot resume it
    environment: dict[str, str]  # machine and libraries; others resume it too, equal up to rounding
    stints: tuple[Stint, ...] = ()  # up to here; empty: of a version that did not keep them
    token_budget: int  # of a micro-batch: it decides the order of summation
    seen_tokens: int
    trained_tokens: int
    padding_tokens: int = 0
    train_loss: float | None
    train_token_accuracy: float | None
    evaluation: Evaluated | None
    standing: Standing


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    folder: Path
    state: CheckpointState

    @property
    def adapter_folder(self) -> Path:
        return self.folder / ADAPTER

    @property
    def best_adapter_folder(self) -> Path | None:
        """The adapter of the best evaluated step so far, where checkpoints keep it."""
        best = self.state.standing.best
        return None if best is None else self.folder / (ADAPTER if best.step == self.state.step else BEST)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Read the moments that ``AdapterOptimizer.tensors`` gave."""
        tensors: dict[str, Tensor] = load_file(self.folder / OPTIMIZER, device="cpu")
        return tensors


class CheckpointFolder:
    """The checkpoints that this attempt writes: the last `KEPT`, each under ``step-<n>``.

    Args:
        keeps_best: each checkpoint also holds the adapter of the best evaluated step, so that resuming from any of
            them, or losing all others, cannot lose it. It is linked, not copied.
        read_only: this process only reads them, beside another one that may write.
    """

    def __init__(self, folder: Path, *, keeps_best: bool = False, read_only: bool = False) -> None:
        self._folder = folder
        self._keeps_best = keeps_best
        self._best_adapter: Path | None = None
        if read_only:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"*{INCOMING}"):
            shutil.rmtree(unfinished)

    @property
    def best_adapter(self) -> Path | None:
        """Where the adapter of the best evaluated step lies, if it is kept and there is one yet."""
        return self._best_adapter

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Know the best adapter of the checkpoint that a run resumes from."""
        if self._keeps_best:
            self._best_adapter = checkpoint.best_adapter_folder

    def list_newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step-*[0-9]"), key=lambda path: int(path.name.split("-")[1]), reverse=True)

    def begin(self, step: int) -> Path:
        """Give an empty folder with an empty adapter folder in it, to be filled and handed to `commit`."""
        incoming = self._folder / f"step-{step:06d}{INCOMING}"
        (incoming / ADAPTER).mkdir(parents=True)
        return incoming

    def commit(self, incoming: Path, state: CheckpointState, optimizer_tensors: dict[str, Tensor]) -> Path:
        """Complete the folder and put it in place; older ones beyond `KEPT` go. Gives its final path."""
        save_file({name: tensor.contiguous() for name, tensor in optimizer_tensors.items()}, incoming / OPTIMIZER)
        (incoming / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")
        best = state.standing.best
        if self._keeps_best and best is not None and best.step != state.step:
            assert self._best_adapter is not None
            shutil.copytree(self._best_adapter, incoming / BEST, copy_function=os.link)
        paths = sorted(path for path in incoming.rglob("*") if path.is_file())
        files = {path.relative_to(incoming).as_posix(): digest_file(path) for path in paths}
        for path in (*paths, *(path for path in incoming.iterdir() if path.is_dir())):
            wait_for_disk(path)
        write_durably(incoming / MANIFEST, canonical_json(CheckpointManifest(files=files).model_dump(mode="json")))
        wait_for_disk(incoming)
        final = incoming.with_name(incoming.name.removesuffix(INCOMING))
        if final.exists():  # one that did not verify, or that was written before its step was evaluated
            shutil.rmtree(final)
        incoming.rename(final)
        wait_for_disk(self._folder)
        self.go_on_from(Checkpoint(final, state))
        for old in [path for path in self.list_newest_first() if path != final][KEPT - 1 :]:
            shutil.rmtree(old)
        return final


def find_resumable(folders: Iterable[Path], identity: dict[str, str], reporter: Reporter) -> Checkpoint | None:
    """Give the first checkpoint that verifies; each that does not is reported and passed over.

    Raises:
        CheckpointInvalid: a sound checkpoint belongs to another run.
    """
    for folder in folders:
        try:
            checkpoint = read_checkpoint(folder)
        except CheckpointInvalid as error:
            note(reporter, EventLevel.WARN, f"{error}; trying the one before")
            continue
        changed = sorted(key for key in identity if checkpoint.state.identity.get(key) != identity[key])
        if changed:
            raise CheckpointInvalid(
                f"checkpoint {folder.name} was written with another {' and another '.join(changed)}; "
                "start the job anew instead of resuming it"
            )
        return checkpoint
    return None


def recorded_environment(folders: Iterable[Path]) -> dict[str, str]:
    """Give the environment of the first checkpoint that can be read; nothing where there is none.

    Needed before the base model is loaded, and so before `find_resumable` can tell whether it is this run's.
    """
    for folder in folders:
        try:
            return CheckpointState.model_validate_json((folder / STATE).read_bytes()).environment
        except (OSError, ValidationError):
            continue  # `find_resumable` will say so
    return {}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Verify a checkpoint, every byte of it.

    Raises:
        CheckpointInvalid: a file is missing, or is not what the manifest says.
    """
    try:
        manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
        for name, expected in manifest.files.items():
            if digest_file(folder / name) != expected:
                raise CheckpointInvalid(f"checkpoint {folder.name} is damaged: {name} is not what was written")
        return Checkpoint(folder, CheckpointState.model_validate_json((folder / STATE).read_bytes()))
    except OSError as error:
        raise CheckpointInvalid(f"checkpoint {folder.name} is incomplete: {error}") from error
    except ValidationError as error:
        raise CheckpointInvalid(f"checkpoint {folder.name} is damaged: {error.title} is malformed") from error
