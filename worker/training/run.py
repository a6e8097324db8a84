"""One run from its examples and its base model to its adapter: puts the trainer's parts together.

Which runs a trainer has, and what they share, is ``worker.training.together``.
"""

from dataclasses import dataclass, field
from pathlib import Path

from core.jobs.events import EventLevel
from worker.trainer_process.messages import PhaseStarted, Resumed
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS, CONTINUE_FROM, RESULTS, RunSpec
from worker.training.data.examples import RunData
from worker.training.data.plan import TrainingPlan
from worker.training.finishing import finish
from worker.training.lockstep import SharedWork
from worker.training.loop import TrainingLoop
from worker.training.measure.answer_scores import require_scorable
from worker.training.measure.generation_eval import (
    MAX_QUESTIONS,
    MAX_SCORED_QUESTIONS,
    GenerationEvaluator,
    choose_questions,
)
from worker.training.measure.result_file import ResultRows
from worker.training.measure.stopwatch import Stopwatch
from worker.training.metrics import Meter, Progress
from worker.training.model.lora import LoraModel
from worker.training.model.memory import checkpoint_what_does_not_fit, choose_token_budget, out_of_memory_named
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.output.adapter_writer import AdapterWriter
from worker.training.output.checkpoint import Checkpoint, CheckpointFolder, CheckpointState, find_resumable
from worker.training.output.earlier_adapter import start_from
from worker.training.output.provenance import changes, environment_of, provenance_of, stints_of
from worker.training.output.resuming import identity_of, restore
from worker.training.preparation import SharedBase
from worker.training.process.ranks import Ranks
from worker.training.process.reporter import Reporter, note
from worker.training.process.stopping import CheckStop
from worker.training.step import GradientAccumulator


@dataclass(frozen=True)
class TrainerRun:
    """One of a trainer's runs: its folder, where it reports, and the time it takes.

    Attributes:
        folder: absolute.
        stopwatch: runs since the process's start; by default since now.
    """

    folder: Path
    reporter: Reporter
    check_stop: CheckStop
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


class PreparedRun:
    """A run at its beginning, or where its newest checkpoint stands, before it trains.

    Args:
        together: runs that share the base.

    Raises:
        TrainingError: the run cannot begin.
    """

    def __init__(
        self, run: TrainerRun, spec: RunSpec, data: RunData, base: SharedBase, ranks: Ranks, together: int
    ) -> None:
        self._run, self._spec, self._data, self._base, self._ranks = run, spec, data, base, ranks
        self._together = together
        job = spec.job
        self._model = self._make_model()
        self._plan = TrainingPlan(len(data.training), job.batch_size, job.n_epochs, job.seed, job.n_evals)
        self._optimizer = AdapterOptimizer(self._model.parameters, job, self._plan.total_steps)
        self._writer = AdapterWriter(spec, base.base, self._model, data, run.folder)
        self._checkpoints = CheckpointFolder(
            run.folder / CHECKPOINTS, keeps_best=bool(job.load_best_model_at_end), read_only=not ranks.leads
        )
        self._identity = identity_of(spec, data, base.base)
        self._environment = environment_of(base.base, self._model.kernels, ranks)
        self._progress, self._results = Progress(), ResultRows()
        self._checkpoint = self._find_checkpoint()
        self._stints = stints_of(None if self._checkpoint is None else self._checkpoint.state, self._environment)
        if self._checkpoint is None:
            affordable = ranks.min(choose_token_budget(self._model))
            self._token_budget = min(affordable, spec.token_budget or affordable)
        else:
            self._token_budget = self._checkpoint.state.token_budget
            self._resume(self._checkpoint)

    def train(self) -> SharedWork[None]:
        """Train to the end and publish the adapter, each micro-batch as part of a pass that others may share.

        Raises:
            TrainingError: the run cannot go on.
            Stopped: the trainer was told to stop; a later run in this folder goes on from the checkpoint.
        """
        with out_of_memory_named():
            if self._together > 1:
                others = f"{self._together - 1} other{'s' * (self._together > 2)}"
                note(self._run.reporter, EventLevel.INFO, f"Is trained together with {others} of the same base model")
            loop = self._make_loop()
            yield from loop.run()
            if self._ranks.leads:
                resumed = None if self._checkpoint is None else self._checkpoint.state.step
                best = self._checkpoints.best_adapter
                scores_a_file = self._spec.validation_file is not None
                told = provenance_of(self._base.base, self._data, self._stints, scores_a_file=scores_a_file)
                finish(loop, self._writer, best, told, resumed_from_step=resumed, together=self._together)

    def _make_model(self) -> LoraModel:
        job = self._spec.job
        model = self._base.add(job.lora, job.seed)
        if job.continue_from is not None:
            fingerprint = self._base.base.fingerprint
            start_from(model, self._run.folder / CONTINUE_FROM, job.continue_from, fingerprint)
            note(self._run.reporter, EventLevel.INFO, f"Starts from the weights of {job.continue_from.name}")
        return model

    def _find_checkpoint(self) -> Checkpoint | None:
        earlier = [*self._checkpoints.list_newest_first(), *map(Path, self._spec.resume_from)]
        return find_resumable(earlier, self._identity, self._run.reporter)

    def _resume(self, checkpoint: Checkpoint) -> None:
        reporter = self._run.reporter
        self._progress = restore(checkpoint, self._model, self._optimizer)
        self._checkpoints.go_on_from(checkpoint)
        self._results = ResultRows.read(checkpoint.folder / RESULTS)
        reporter.send(Resumed(step=self._progress.step, folder=str(checkpoint.folder)))
        if others := changes(checkpoint.state.environment, self._environment):
            named = "; ".join(f"{name} was {before}, is {now}" for name, (before, now) in others.items())
            sentence = f"the run goes on with other libraries or hardware: equal up to rounding ({named})"
            note(reporter, EventLevel.WARN, sentence)

    def _make_loop(self) -> TrainingLoop:
        model, data, run, base = self._model, self._data, self._run, self._base.base
        budget = self._token_budget
        gradient = self._make_gradient()
        job = self._spec.job
        metrics = () if job.evaluation is None else job.evaluation.metrics
        most = MAX_SCORED_QUESTIONS if metrics else MAX_QUESTIONS
        questions = choose_questions(data.held_out, base.tokenizer, base.context_tokens, most)
        judged = [base.tokenizer.decode(question.expected_ids) for question in questions if question.can_be_judged]
        require_scorable(job.best_by, judged)

        def write_checkpoint(progress: Progress) -> str:
            return self._write_checkpoint(progress, gradient.token_budget)

        run.stopwatch.enter("training")
        run.reporter.send(PhaseStarted(name="training"))
        return TrainingLoop(
            model,
            data,
            self._plan,
            self._optimizer,
            gradient,
            self._progress,
            run.reporter,
            run.check_stop,
            write_checkpoint,
            run.stopwatch,
            Meter.of(model, data.training, self._plan, lambda: self._base.peak_flops_per_s(budget), self._ranks),
            GenerationEvaluator(model, base.tokenizer, questions, budget),
            self._results,
            metrics=metrics,
            best_by=job.best_by,
            patience=job.early_stopping_patience,
            ranks=self._ranks,
        )

    def _make_gradient(self) -> GradientAccumulator:
        model, training, reporter = self._model, self._data.training, self._run.reporter
        others_need = model.decoder_pass.checkpointed_blocks
        if recomputed := checkpoint_what_does_not_fit(model, int(training.lengths.max()), others_need):
            sentence = f"memory is short, so {recomputed} blocks of the model are computed twice"
            note(reporter, EventLevel.WARN, sentence)

        def note_halved(token_budget: int) -> None:
            sentence = f"memory did not suffice; micro-batches now have {token_budget} tokens at most"
            note(reporter, EventLevel.WARN, sentence)

        return GradientAccumulator(
            model,
            training,
            self._plan,
            self._token_budget,
            self._run.check_stop,
            self._spec.job.neftune_noise_alpha,
            self._ranks,
            note_halved,
        )

    def _write_checkpoint(self, progress: Progress, token_budget: int) -> str:
        self._writer.require_finite(progress.step)
        incoming = self._checkpoints.begin(progress.step)
        self._writer.write_adapter(incoming / ADAPTER, progress.step)
        self._results.write(incoming / RESULTS)
        state = CheckpointState(
            identity=self._identity,
            environment=self._environment,
            stints=self._stints,
            token_budget=token_budget,
            **vars(progress),
        )
        return str(self._checkpoints.commit(incoming, state, self._optimizer.tensors()))
