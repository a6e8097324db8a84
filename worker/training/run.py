"""One run from its folder to its adapter: puts the trainer's parts together and keeps their order."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy
import peft
import torch
import transformers

from core.base_models import DType, read_imported
from core.errors import AdapterUnchanged, BaseModelInvalid, LossNotFinite
from core.estimate import Measured
from core.events import EventLevel
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.messages import Finished, Phase, Resumed
from worker.models.adapter_format import canonical_json, digest_text, write_manifest
from worker.models.loading import LoadedModel, choose_device, load_base_model
from worker.run_folder import ADAPTER, CHECKPOINTS, CONTINUE_FROM, RESULTS, RunSpec, read_spec
from worker.training.account import name_lines
from worker.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    CheckpointState,
    find_resumable,
    recorded_environment,
)
from worker.training.continuing import start_from
from worker.training.data import RunData, load_data
from worker.training.early_stopping import describe_ending
from worker.training.loop import TrainingLoop
from worker.training.lora import LoraModel, add_lora, is_finite, is_unchanged, restore_adapter, save_adapter
from worker.training.memory import (
    checkpoint_what_does_not_fit,
    choose_token_budget,
    describe_machine,
    out_of_memory_named,
    peak_memory_bytes,
)
from worker.training.metrics import Meter, Progress, metrics_of
from worker.training.optimizer import AdapterOptimizer
from worker.training.plan import PLAN_VERSION, Plan
from worker.training.ranks import ALONE, Ranks
from worker.training.reporter import Reporter, note
from worker.training.result_file import ResultRows
from worker.training.samples import Sampler, choose_questions
from worker.training.step import GradientAccumulator
from worker.training.stopping import CheckStop
from worker.training.stopwatch import Stopwatch


def run(
    run_folder: Path,
    reporter: Reporter,
    check_stop: CheckStop,
    stopwatch: Stopwatch | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train what ``spec.json`` says and leave the adapter in the run folder; the last message is `Finished`.

    Args:
        stopwatch: runs since the process's start; None: since now.
        ranks: this process among those that train in this folder. They have met, and each runs this.

    Raises:
        TrainingError: the run cannot go on.
        Stopped: the trainer was told to stop; a later run in this folder goes on from the checkpoint.
        PeerLost: another rank ended.
    """
    run_folder = run_folder.absolute()
    stopwatch = stopwatch or Stopwatch()
    spec = read_spec(run_folder)
    with out_of_memory_named():
        stopwatch.enter("rendering")
        reporter.send(Phase(name="rendering"))
        data = _load_data(run_folder, spec, reporter, check_stop)
        stopwatch.enter("loading")
        reporter.send(Phase(name="loading"))
        base = _load_base(run_folder, spec)
        check_stop()
        _train(run_folder, spec, data, base, reporter, check_stop, stopwatch, ranks)


def _load_data(run_folder: Path, spec: RunSpec, reporter: Reporter, check_stop: CheckStop) -> RunData:
    folder = Path(spec.base_model_folder)
    job = spec.job
    renderer = Renderer(
        TextTokenizer.from_folder(folder),
        prompt_loss_weight=job.prompt_loss_weight,
        train_on=job.train_on,
        prompt_format=job.prompt_format,
    )
    data = load_data(
        renderer,
        job,
        training_file=run_folder / spec.training_file,
        validation_file=None if spec.validation_file is None else run_folder / spec.validation_file,
        context_tokens=read_imported(folder).context_tokens,
        check_stop=check_stop,
    )
    note(reporter, EventLevel.INFO, f"Trains on {data.account.sentence(job.prompt_loss_weight)}")
    for sentence in data.account.left_out:
        note(reporter, EventLevel.WARN, sentence)
    if moved := data.account.moved_lines:
        sentence = "a space at the prompt's end was moved to the completion's beginning"
        note(reporter, EventLevel.WARN, f"{sentence} in {len(moved):,} examples ({name_lines(moved)})")
    if data.unscored_lines:
        count, named = len(data.unscored_lines), name_lines(data.unscored_lines)
        note(reporter, EventLevel.WARN, f"{count:,} validation examples are over max_length and not scored ({named})")
    if not len(data.held_out):
        idle = " and no step is known as the best" if job.load_best_model_at_end or job.early_stopping_patience else ""
        sentence = f"no example is held out, so the adapter is not scored{idle}; add a validation file"
        note(reporter, EventLevel.WARN, sentence)
    return data


def _load_base(run_folder: Path, spec: RunSpec) -> LoadedModel:
    dtype = spec.base_model_dtype
    if dtype == "auto":
        dtype = _number_type_so_far(run_folder, spec)
    base = load_base_model(Path(spec.base_model_folder), dtype=dtype, quantization=spec.job.quantization)
    if base.fingerprint != spec.base_model_fingerprint:
        raise BaseModelInvalid(
            f"base model {spec.job.base_model} is not the one this job was made for: its fingerprint is "
            f"{base.fingerprint[:12]}, not {spec.base_model_fingerprint[:12]}; start the job anew"
        )
    return base


def _number_type_so_far(run_folder: Path, spec: RunSpec) -> DType:
    """Give the type that a run began in: measured anew on a busy machine, the probe could choose the other one."""
    written = CheckpointFolder(run_folder / CHECKPOINTS, read_only=True).list_newest_first()
    recorded = recorded_environment([*written, *map(Path, spec.resume_from)])
    if recorded.get("device") != str(choose_device()):
        return "auto"
    names: dict[str | None, DType] = {str(torch.bfloat16): "bfloat16", str(torch.float32): "float32"}
    return names.get(recorded.get("dtype"), "auto")


def _train(
    run_folder: Path,
    spec: RunSpec,
    data: RunData,
    base: LoadedModel,
    reporter: Reporter,
    check_stop: CheckStop,
    stopwatch: Stopwatch,
    ranks: Ranks,
) -> None:
    job = spec.job
    model = add_lora(base, job.lora, job.seed)
    if job.continue_from is not None:
        start_from(model, run_folder / CONTINUE_FROM, job.continue_from, base.fingerprint)
        note(reporter, EventLevel.INFO, f"Starts from the weights of {job.continue_from.name}")
    plan = Plan(len(data.training), job.batch_size, job.n_epochs, job.seed, job.n_evals)
    optimizer = AdapterOptimizer(model.parameters, job, plan.total_steps)
    writer = _Writer(spec, base, model, data, run_folder)
    checkpoints = CheckpointFolder(
        run_folder / CHECKPOINTS, keeps_best=job.load_best_model_at_end, read_only=not ranks.leads
    )
    identity, environment = _identity(spec, data, base), _environment(base, ranks)
    earlier = [*checkpoints.list_newest_first(), *map(Path, spec.resume_from)]
    checkpoint = find_resumable(earlier, identity, reporter)
    if checkpoint is None:
        progress, token_budget = Progress(), ranks.least(choose_token_budget(model))
        results = ResultRows()
    else:
        progress, token_budget = _restore(checkpoint, model, optimizer), checkpoint.state.token_budget
        checkpoints.go_on_from(checkpoint)
        results = ResultRows.read(checkpoint.folder / RESULTS)
        reporter.send(Resumed(step=progress.step, folder=str(checkpoint.folder)))
        if checkpoint.state.environment != environment:
            note(reporter, EventLevel.WARN, "the run goes on with other libraries or hardware: equal up to rounding")

    if twice := checkpoint_what_does_not_fit(model, int(data.training.lengths.max())):
        note(reporter, EventLevel.WARN, f"memory is short, so {twice} blocks of the model are computed twice")

    def say_halved(token_budget: int) -> None:
        note(reporter, EventLevel.WARN, f"memory did not suffice; micro-batches now have {token_budget} tokens at most")

    gradient = GradientAccumulator(
        model, data.training, plan, token_budget, check_stop, job.neftune_noise_alpha, ranks, say_halved
    )

    def write_checkpoint(progress: Progress) -> str:
        writer.require_finite(progress.step)
        incoming = checkpoints.begin(progress.step)
        writer.write_adapter(incoming / ADAPTER, progress.step)
        results.write(incoming / RESULTS)
        state = CheckpointState(
            identity=identity, environment=environment, token_budget=gradient.token_budget, **vars(progress)
        )
        return str(checkpoints.commit(incoming, state, optimizer.tensors()))

    meter = Meter.of(model, data.training, plan, token_budget, ranks)
    questions = choose_questions(data.held_out, base.tokenizer, base.context_tokens)
    sampler = Sampler(model, base.tokenizer, questions, token_budget)
    stopwatch.enter("training")
    reporter.send(Phase(name="training"))
    loop = TrainingLoop(
        model,
        data,
        plan,
        optimizer,
        gradient,
        progress,
        reporter,
        check_stop,
        write_checkpoint,
        stopwatch,
        meter,
        sampler,
        results,
        patience=job.early_stopping_patience,
        ranks=ranks,
    )
    loop.run()
    if not ranks.leads:
        return
    for sentence in describe_ending(
        progress.standing, progress.step, plan.total_steps, publishes_best=job.load_best_model_at_end
    ):
        note(reporter, EventLevel.INFO, sentence)
    stopwatch.enter("saving")
    reporter.send(Phase(name="saving"))
    folder = writer.publish(progress, checkpoints.best_adapter)
    results.write(run_folder / RESULTS)
    best = None if checkpoints.best_adapter is None else progress.standing.best
    reporter.send(
        Finished(
            folder=str(folder),
            steps=progress.step,
            adapter_step=progress.step if best is None else best.step,
            trained_on=writer.trained_on,
            trained_tokens=progress.trained_tokens,
            metrics=progress.metrics() if best is None else metrics_of(best),
            measured=_measure(loop, checkpoint),
        )
    )


def _measure(loop: TrainingLoop, resumed_from: Checkpoint | None) -> Measured:
    return Measured(
        examples=len(loop.data.training),
        held_out_examples=len(loop.data.held_out),
        seen_tokens=loop.progress.seen_tokens,
        trained_tokens=loop.progress.trained_tokens,
        evaluated_tokens=loop.evaluated_tokens,
        steps=loop.progress.step,
        seconds=loop.stopwatch.read(),
        peak_memory_bytes=peak_memory_bytes(loop.model.device),
        token_budget=loop.gradient.token_budget,
        machine=describe_machine(loop.model, loop.ranks.size),
        resumed_from_step=None if resumed_from is None else resumed_from.state.step,
    )


def _restore(checkpoint: Checkpoint, model: LoraModel, optimizer: AdapterOptimizer) -> Progress:
    state = checkpoint.state
    restore_adapter(model, checkpoint.adapter_folder)
    optimizer.restore(checkpoint.optimizer_tensors(), state.step)
    return Progress(
        step=state.step,
        seen_tokens=state.seen_tokens,
        trained_tokens=state.trained_tokens,
        padding_tokens=state.padding_tokens,
        train_loss=state.train_loss,
        train_token_accuracy=state.train_token_accuracy,
        evaluation=state.evaluation,
        standing=state.standing,
    )


def _identity(spec: RunSpec, data: RunData, base: LoadedModel) -> dict[str, str]:
    """Name what decides a run's result, in words that an error can use."""
    return {
        "specification": hashlib.sha256(canonical_json(spec.job.model_dump(mode="json"))).hexdigest(),
        "data set": data.digest,
        "base model": base.fingerprint,
        "planner version": str(PLAN_VERSION),
    }


def _environment(base: LoadedModel, ranks: Ranks) -> dict[str, str]:
    libraries = {module.__name__: module.__version__ for module in (numpy, peft, torch, transformers)}
    return libraries | {
        "device": str(base.device),
        "dtype": str(base.dtype),
        "threads": str(torch.get_num_threads()),
        "ranks": str(ranks.size),
    }


@dataclass(frozen=True)
class _Writer:
    """Writes the model's present adapter with everything its manifest tells."""

    spec: RunSpec
    base: LoadedModel
    model: LoraModel
    data: RunData
    run_folder: Path

    @property
    def trained_on(self) -> str:
        return self.data.account.sentence(self.spec.job.prompt_loss_weight)

    def require_finite(self, step: int) -> None:
        """Keep a broken adapter from being written.

        Raises:
            LossNotFinite: a weight is no number any more.
        """
        if not is_finite(self.model):
            raise LossNotFinite(
                f"after step {step} the adapter has weights that are no finite numbers; lower the learning rate"
            )

    def write_adapter(self, folder: Path, step: int) -> None:
        save_adapter(self.model, folder)
        template = self.base.tokenizer.chat_template
        write_manifest(
            folder,
            base_model=self.spec.job.base_model,
            base_model_fingerprint=self.base.fingerprint,
            tokenizer_sha256=self.base.tokenizer.digest,
            chat_template_sha256=None if template is None else digest_text(template),
            example_format=self.data.example_format,
            prompt_format=self.spec.job.prompt_format,
            prompts=self.data.prompts,
            job_id=self.spec.job_id,
            step=step,
            trained_on=self.trained_on,
            lora=self.model.lora,
        )

    def publish(self, progress: Progress, best: Path | None) -> Path:
        """Leave the finished adapter in the run folder, and give its folder.

        Args:
            best: folder of a checkpoint's adapter that is the result; None: the model as it is now.

        Raises:
            AdapterUnchanged: training changed nothing.
            LossNotFinite: a weight is no number any more.
        """
        self.require_finite(progress.step)
        continued = self.spec.job.continue_from
        if is_unchanged(self.model, None if continued is None else self.run_folder / CONTINUE_FROM):
            start = "at exactly zero" if continued is None else f"exactly as {continued.name} is"
            raise AdapterUnchanged(
                f"training left the adapter {start}; raise the learning rate or the number of epochs"
            )
        incoming, final = self.run_folder / f"{ADAPTER}.incoming", self.run_folder / ADAPTER
        for leftover in (incoming, final):
            shutil.rmtree(leftover, ignore_errors=True)
        if best is None:
            incoming.mkdir()
            self.write_adapter(incoming, progress.step)
        else:
            shutil.copytree(best, incoming)
        incoming.rename(final)
        return final
