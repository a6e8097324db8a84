"""What a run starts from: its examples, rendered and accounted for, and its base model, the one it was made for.

How text becomes ids is ``core.text.rendering``'s; how weights are read, ``worker.models.loading``'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from core.base_models.registry import DType, read_imported
from core.errors import BaseModelDiffers, HostUnfit
from core.jobs.events import EventLevel
from core.jobs.spec import JobSpec, LoraSpec
from core.process.gpu import VISIBLE
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.models.loading import LoadedModel, load_base_model
from worker.models.precision import choose_device, find_gpu_fault
from worker.trainer_process.run_folder import CHECKPOINTS, RunSpec
from worker.training.data.examples import RunData, require_scores
from worker.training.data.shared_examples import SharedExamples
from worker.training.data.summary import name_lines
from worker.training.measure.gemm_probe import probe_flops_per_s
from worker.training.model.lora import LoraModel, add_beside, add_lora
from worker.training.native.build import load as load_kernels
from worker.training.native.kernels import TrainerKernels
from worker.training.output.checkpoint import CheckpointFolder, recorded_environment
from worker.training.process.reporter import Reporter, note
from worker.training.process.stopping import CheckStop

_NONE_HELD_OUT: Final = "no example is held out, as fewer than two prompts have an answer that can be scored"
_NONE_SCORED: Final = "no example of the validation file fits and has a completion token with a weight"


def require_working_gpu(environ: Mapping[str, str]) -> None:
    """Make sure that a GPU that is there is trained on: on the CPU the run would take many times as long.

    Raises:
        HostUnfit: torch cannot use it.
    """
    fault = find_gpu_fault(environ)
    if fault is not None:
        raise HostUnfit(
            f"its GPU cannot be used: {fault}; mend the driver, or start the worker with {VISIBLE}=-1, "
            "to train on the CPU"
        )


def load_run_data(
    run_folder: Path, spec: RunSpec, reporter: Reporter, check_stop: CheckStop, shared: SharedExamples
) -> RunData:
    """Render the run's examples, unless another run has them already, and say what they come to.

    Raises:
        TrainingError: as ``worker.training.data.examples`` says.
        Stopped: the trainer was told to stop.
    """
    folder = Path(spec.base_model_folder)
    job = spec.job
    data = shared.load(
        Renderer(TextTokenizer.from_folder(folder), rendering_of(job, folder)),
        job,
        training_file=run_folder / spec.training_file,
        validation_file=None if spec.validation_file is None else run_folder / spec.validation_file,
        check_stop=check_stop,
    )
    require_scores(data, job)
    _say_what_it_trains_on(data, job, reporter)
    return data


def rendering_of(job: JobSpec, base_folder: Path) -> RenderSettings:
    """Give the job's render settings, no longer than the base model's context: nobody checks a spec made by hand."""
    return job.with_max_length(min(job.max_length, read_imported(base_folder).context_tokens))


def _say_what_it_trains_on(data: RunData, job: JobSpec, reporter: Reporter) -> None:
    note(reporter, EventLevel.INFO, f"Trains on {data.summary.sentence(job.prompt_loss_weight)}")
    for sentence in data.summary.left_out:
        note(reporter, EventLevel.WARN, sentence)
    if moved := data.summary.moved_lines:
        sentence = "a space at the prompt's end was moved to the completion's beginning"
        note(reporter, EventLevel.WARN, f"{sentence} in {len(moved):,} examples ({name_lines(moved)})")
    if data.unscored_lines:
        count, named = len(data.unscored_lines), name_lines(data.unscored_lines)
        note(reporter, EventLevel.WARN, f"{count:,} validation examples are over max_length and not scored ({named})")
    if not data.scored_tokens:
        why = _NONE_HELD_OUT if job.validation_file is None else _NONE_SCORED
        sentence = f"{why}, so the adapter is not scored; add a validation file whose answers have weights"
        note(reporter, EventLevel.WARN, sentence)


def load_shared_base(spec: RunSpec, dtype: DType) -> "SharedBase":
    """Load the base model that the job was made for, in the number type that `number_type_of` gives.

    Raises:
        BaseModelInvalid: it cannot be read.
        BaseModelDiffers: it is another one.
        QuantizationUnavailable: it is to be kept in 4 bits and this machine cannot.
    """
    base = load_base_model(Path(spec.base_model_folder), dtype=dtype, quantization=spec.job.quantization)
    if base.fingerprint != spec.base_model_fingerprint:
        raise BaseModelDiffers(
            f"base model {spec.job.base_model} is not the one this job was made for: its fingerprint is "
            f"{base.fingerprint[:12]}, not {spec.base_model_fingerprint[:12]}; start the job anew"
        )
    folder = spec.kernels_folder
    return SharedBase(base, None if folder is None else load_kernels(Path(folder), base.device, base.dtype))


def number_type_of(run_folder: Path, spec: RunSpec) -> DType:
    """Give the number type to load the base in: the one that the run began in, where it chose by itself."""
    dtype = spec.base_model_dtype
    if dtype == "auto":
        dtype = _number_type_so_far(run_folder, spec)
    return dtype


def _number_type_so_far(run_folder: Path, spec: RunSpec) -> DType:
    """Give the type that a run began in: measured anew on a busy machine, the probe could choose the other one."""
    written = CheckpointFolder(run_folder / CHECKPOINTS, read_only=True).list_newest_first()
    recorded = recorded_environment([*written, *map(Path, spec.resume_from)])
    if recorded.get("device") != str(choose_device()):
        return "auto"
    names: dict[str | None, DType] = {str(torch.bfloat16): "bfloat16", str(torch.float32): "float32"}
    return names.get(recorded.get("dtype"), "auto")


class SharedBase:
    """A base model that a trainer loaded once: each of its runs has an adapter of its own in it.

    Attributes:
        kernels: None where torch computes.
    """

    def __init__(self, base: LoadedModel, kernels: TrainerKernels | None) -> None:
        self.base, self.kernels = base, kernels
        self._model: LoraModel | None = None  # the first of them
        self._peaks: dict[int, float] = {}

    def add(self, lora: LoraSpec, seed: int) -> LoraModel:
        """Put one more adapter into it, ready to train.

        Raises:
            TargetModulesUnmatched, BaseModelUntrainable: as ``worker.training.model.lora`` says.
        """
        if self._model is None:
            self._model = add_lora(self.base, lora, seed, kernels=self.kernels)
            return self._model
        return add_beside(self._model, lora, seed)

    def peak_flops_per_s(self, tokens: int) -> float:
        """Probe the machine's products of so many rows with this base's weights, once for all runs."""
        assert self._model is not None
        if tokens not in self._peaks:
            self._peaks[tokens] = probe_flops_per_s(self._model, tokens)
        return self._peaks[tokens]
