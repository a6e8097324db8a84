"""One run from its folder to its adapter: puts the trainer's parts together and keeps their order."""

import os
from dataclasses import dataclass
from pathlib import Path

from core.estimates.estimate import Measured
from core.jobs.events import EventLevel
from worker.models.loading import LoadedModel
from worker.trainer_process.messages import Finished, PhaseStarted, Resumed
from worker.trainer_process.run_folder import (
    ADAPTER,
    CHECKPOINTS,
    CONTINUE_FROM,
    RESULTS,
    RunSpec,
    read_spec,
    write_finished,
)
from worker.training.data.examples import RunData
from worker.training.data.plan import TrainingPlan
from worker.training.loop import TrainingLoop
from worker.training.measure.early_stopping import describe_ending
from worker.training.measure.generation_eval import (
    MAX_QUESTIONS,
    MAX_SCORED_QUESTIONS,
    GenerationEvaluator,
    choose_questions,
)
from worker.training.measure.result_file import ResultRows
from worker.training.measure.stopwatch import Stopwatch
from worker.training.metrics import Meter, Progress, metrics_of
from worker.training.model.lora import LoraModel, add_lora
from worker.training.model.memory import (
    checkpoint_what_does_not_fit,
    choose_token_budget,
    describe_machine,
    out_of_memory_named,
    peak_memory_bytes,
)
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.native.build import load as load_kernels
from worker.training.output.adapter_writer import AdapterWriter
from worker.training.output.checkpoint import Checkpoint, CheckpointFolder, CheckpointState, find_resumable
from worker.training.output.earlier_adapter import start_from
from worker.training.output.resuming import environment_of, identity_of, restore
from worker.training.preparation import load_run_base, load_run_data, require_working_gpu
from worker.training.process.ranks import ALONE, Ranks
from worker.training.process.reporter import Reporter, note
from worker.training.process.stopping import CheckStop
from worker.training.step import GradientAccumulator


@dataclass(frozen=True)
class _RunContext:
    """What a run is given, and what each of its stages uses."""

    run_folder: Path
    spec: RunSpec
    reporter: Reporter
    check_stop: CheckStop
    stopwatch: Stopwatch
    ranks: Ranks


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
    require_working_gpu(os.environ)
    with out_of_memory_named():
        stopwatch.enter("rendering")
        reporter.send(PhaseStarted(name="rendering"))
        data = load_run_data(run_folder, spec, reporter, check_stop)
        stopwatch.enter("loading")
        reporter.send(PhaseStarted(name="loading"))
        base = load_run_base(run_folder, spec)
        check_stop()
        _train(_RunContext(run_folder, spec, reporter, check_stop, stopwatch, ranks), data, base)


def _train(context: _RunContext, data: RunData, base: LoadedModel) -> None:
    spec, job, reporter, ranks = context.spec, context.spec.job, context.reporter, context.ranks
    model = _make_model(context, base)
    plan = TrainingPlan(len(data.training), job.batch_size, job.n_epochs, job.seed, job.n_evals)
    optimizer = AdapterOptimizer(model.parameters, job, plan.total_steps)
    writer = AdapterWriter(spec, base, model, data, context.run_folder)
    checkpoints = CheckpointFolder(
        context.run_folder / CHECKPOINTS, keeps_best=bool(job.load_best_model_at_end), read_only=not ranks.leads
    )
    identity, environment = identity_of(spec, data, base), environment_of(base, model.kernels, ranks)
    earlier = [*checkpoints.list_newest_first(), *map(Path, spec.resume_from)]
    checkpoint = find_resumable(earlier, identity, reporter)
    if checkpoint is None:
        progress, token_budget = Progress(), ranks.min(choose_token_budget(model))
        results = ResultRows()
    else:
        progress, token_budget = restore(checkpoint, model, optimizer), checkpoint.state.token_budget
        checkpoints.go_on_from(checkpoint)
        results = ResultRows.read(checkpoint.folder / RESULTS)
        reporter.send(Resumed(step=progress.step, folder=str(checkpoint.folder)))
        if checkpoint.state.environment != environment:
            note(reporter, EventLevel.WARN, "the run goes on with other libraries or hardware: equal up to rounding")
    gradient = _make_gradient(context, model, data, plan, token_budget)

    def write_checkpoint(progress: Progress) -> str:
        writer.require_finite(progress.step)
        incoming = checkpoints.begin(progress.step)
        writer.write_adapter(incoming / ADAPTER, progress.step)
        results.write(incoming / RESULTS)
        state = CheckpointState(
            identity=identity, environment=environment, token_budget=gradient.token_budget, **vars(progress)
        )
        return str(checkpoints.commit(incoming, state, optimizer.tensors()))

    metrics = () if job.evaluation is None else job.evaluation.metrics
    most = MAX_SCORED_QUESTIONS if metrics else MAX_QUESTIONS
    questions = choose_questions(data.held_out, base.tokenizer, base.context_tokens, most)
    context.stopwatch.enter("training")
    reporter.send(PhaseStarted(name="training"))
    loop = TrainingLoop(
        model,
        data,
        plan,
        optimizer,
        gradient,
        progress,
        reporter,
        context.check_stop,
        write_checkpoint,
        context.stopwatch,
        Meter.of(model, data.training, plan, token_budget, ranks),
        GenerationEvaluator(model, base.tokenizer, questions, token_budget),
        results,
        metrics=metrics,
        best_by=job.best_by,
        patience=job.early_stopping_patience,
        ranks=ranks,
    )
    loop.run()
    if ranks.leads:
        _finish(context, loop, writer, checkpoints.best_adapter, checkpoint)


def _make_model(context: _RunContext, base: LoadedModel) -> LoraModel:
    spec, job = context.spec, context.spec.job
    folder = spec.kernels_folder
    kernels = None if folder is None else load_kernels(Path(folder), base.device, base.dtype)
    model = add_lora(base, job.lora, job.seed, kernels=kernels)
    if job.continue_from is not None:
        start_from(model, context.run_folder / CONTINUE_FROM, job.continue_from, base.fingerprint)
        note(context.reporter, EventLevel.INFO, f"Starts from the weights of {job.continue_from.name}")
    return model


def _make_gradient(
    context: _RunContext, model: LoraModel, data: RunData, plan: TrainingPlan, token_budget: int
) -> GradientAccumulator:
    if recomputed := checkpoint_what_does_not_fit(model, int(data.training.lengths.max())):
        note(
            context.reporter,
            EventLevel.WARN,
            f"memory is short, so {recomputed} blocks of the model are computed twice",
        )

    def note_halved(token_budget: int) -> None:
        sentence = f"memory did not suffice; micro-batches now have {token_budget} tokens at most"
        note(context.reporter, EventLevel.WARN, sentence)

    noise_alpha = context.spec.job.neftune_noise_alpha
    return GradientAccumulator(
        model, data.training, plan, token_budget, context.check_stop, noise_alpha, context.ranks, note_halved
    )


def _finish(
    context: _RunContext,
    loop: TrainingLoop,
    writer: AdapterWriter,
    best_adapter: Path | None,
    resumed: Checkpoint | None,
) -> None:
    """Publish the adapter, the last one or the best, and say what the run came to."""
    progress, reporter = loop.progress, context.reporter
    for sentence in describe_ending(
        progress.standing,
        progress.step,
        loop.plan.total_steps,
        publishes_best=bool(context.spec.job.load_best_model_at_end),
        by=context.spec.job.best_by,
    ):
        note(reporter, EventLevel.INFO, sentence)
    context.stopwatch.enter("saving")
    reporter.send(PhaseStarted(name="saving"))
    folder = writer.publish(progress, best_adapter)
    loop.results.write(context.run_folder / RESULTS)
    best = None if best_adapter is None else progress.standing.best
    finished = Finished(
        folder=str(folder),
        steps=progress.step,
        adapter_step=progress.step if best is None else best.step,
        trained_on=writer.trained_on,
        trained_tokens=progress.trained_tokens,
        metrics=progress.metrics() if best is None else metrics_of(best),
        measured=_measure(loop, resumed),
    )
    write_finished(context.run_folder, finished)
    reporter.send(finished)


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
