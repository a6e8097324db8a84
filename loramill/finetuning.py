"""Trains an adapter in this process, with the trainer that the service starts for a job.

What a run does is ``worker.training.run``; what each setting becomes, ``core.jobs.resolve``.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import AdapterInvalid
from core.ids import new_id
from core.jobs.requested import HyperparameterFields, TrainingFields
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import AdapterRef, JobSpec, TrainedAdapter
from core.serving.adapter_format import MANIFEST, parse_manifest
from core.settings import load_settings
from loramill._base_model import LoadableBaseModel, find_base_model
from loramill._examples import Examples, place_examples
from worker.trainer_process.messages import Message
from worker.trainer_process.run_folder import (
    ADAPTER,
    CONTINUE_FROM,
    TRAINING_FILE,
    VALIDATION_FILE,
    RunSpec,
    write_spec,
)
from worker.training.process.onednn import keep_few_kernels
from worker.training.together import run


class FinetuneSettings(TrainingFields, HyperparameterFields):
    """A job's fields as `finetune` takes them: all in one place, and none that only a service needs."""


def finetune(
    base: str | Path,
    examples: Examples,
    settings: FinetuneSettings | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    validation: Examples | None = None,
    continue_from: str | Path | None = None,
    progress: Callable[[Message], None] | None = None,
) -> Path:
    """Train a LoRA adapter and give its folder, which `LLM` and ``peft.PeftModel.from_pretrained`` load.

    An interrupted run leaves nothing behind, and cannot be gone on with.

    Args:
        base: a name of the registry, or a folder, as for `LLM`.
        examples: ``{"prompt": …, "completion": …}``, ``{"messages": […]}``, or columns that ``prompt_format`` makes
            a prompt and a completion of; or the path of a JSONL, CSV or Parquet file of such.
        settings: fields of a fine-tuning job, with its names, bounds and defaults (docs/hyperparameters.md):
            prompt_loss_weight, n_epochs, batch_size, learning_rate, lora, seed and so on, side by side.
        out: the adapter's folder, which must not exist yet.
        validation: examples to score the adapter by; None: those of a tenth of the prompts, which are not trained on
            (docs/hyperparameters.md).
        continue_from: folder of an adapter of this base model to go on from.
        progress: called with each message of the trainer (``loramill.messages``): `StepDone` after each
            step, `Evaluated` with the held-out loss, `Finished` at the end. What it raises ends the run.

    Raises:
        FileExistsError: ``out`` exists.
        pydantic.ValidationError: there is no such setting, or it is out of its bounds.
        ModelNotFound, BaseModelInvalid: as `LLM` says.
        InvalidParameter: settings contradict each other, the examples, or the base model.
        AdapterInvalid: ``continue_from`` does not verify, or is of another base model.
        TrainingError: the run cannot go on; its classes say why (`NoTrainedTokens`, `ExampleInvalid`, `LossNotFinite`,
            `OutOfMemory` and others of ``loramill.errors``).
    """
    target = Path(out).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists; an adapter is written into a folder of its own")
    asked = FinetuneSettings.model_validate(settings or {})
    model = find_base_model(base)
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the finished adapter comes to its place at once and whole
    with tempfile.TemporaryDirectory(prefix=f".{target.name}~", dir=target.parent) as scratch:
        run_folder = Path(scratch)
        job = _resolve_job(asked, model, run_folder, examples, validation, continue_from)
        write_spec(run_folder, _run_spec(model, job, adapter_name=target.name))
        keep_few_kernels()
        run(run_folder, _Callback(progress), _never_stop)
        (run_folder / ADAPTER).rename(target)
    return target


def _resolve_job(
    asked: FinetuneSettings,
    model: LoadableBaseModel,
    run_folder: Path,
    examples: Examples,
    validation: Examples | None,
    continue_from: str | Path | None,
) -> JobSpec:
    """Put what the run reads into its folder, and give every setting its value."""
    training = place_examples(examples, run_folder / TRAINING_FILE, asked, name="examples")
    scored = None
    if validation is not None:
        scored = place_examples(validation, run_folder / VALIDATION_FILE, asked, name="validation")
    return resolve(
        asked,
        asked,
        TrainableBase(
            model.entry.name, model.imported.fingerprint, model.entry.learning_rate, model.imported.context_tokens
        ),
        training=training,
        validation=scored,
        continued=None if continue_from is None else _place_adapter(Path(continue_from), run_folder),
    )


def _run_spec(model: LoadableBaseModel, job: JobSpec, *, adapter_name: str) -> RunSpec:
    return RunSpec(
        job_id=new_id("local-"),
        token=1,
        job=job,
        base_model_folder=str(model.folder),
        base_model_fingerprint=model.imported.fingerprint,
        base_model_dtype=model.entry.dtype,
        validation_file=None if job.validation_file is None else VALIDATION_FILE,
        adapter_name=adapter_name,
        kernels_folder=str(load_settings().kernels_folder),
    )


class _Callback:
    """The trainer's reporter for whoever called."""

    def __init__(self, progress: Callable[[Message], None] | None) -> None:
        self._progress = progress

    def send(self, message: Message) -> None:
        if self._progress is not None:
            self._progress(message)


def _never_stop() -> None:
    """Stand in for a signal: in a process of one's own, Ctrl-C raises."""


def _place_adapter(folder: Path, run_folder: Path) -> TrainedAdapter:
    """Put an adapter where the trainer takes its start values from, which verifies it."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise AdapterInvalid("", f"{error.filename} is missing") from error
    manifest = parse_manifest(content)
    if manifest.lora is None:
        raise AdapterInvalid("", f"{folder} has a shape that cannot be trained further, such as ranks by patterns")
    (run_folder / CONTINUE_FROM).symlink_to(folder.resolve(), target_is_directory=True)
    ref = AdapterRef(name=str(folder), adapter_sha256=hashlib.sha256(content).hexdigest())
    return TrainedAdapter(manifest.base_model, ref, manifest.lora)
