"""The end of a run whose training is over: its adapter is published, and what it came to is said."""

from pathlib import Path

from core.estimates.estimate import Measured
from core.jobs.events import EventLevel
from core.provenance.record import Provenance
from worker.trainer_process.messages import Finished, PhaseStarted
from worker.trainer_process.run_folder import RESULTS, write_finished
from worker.training.loop import TrainingLoop
from worker.training.measure.early_stopping import describe_ending
from worker.training.metrics import metrics_of
from worker.training.model.memory import describe_machine, peak_memory_bytes
from worker.training.output.adapter_writer import AdapterWriter
from worker.training.process.reporter import note


def finish(
    loop: TrainingLoop,
    writer: AdapterWriter,
    best_adapter: Path | None,
    provenance: Provenance,
    *,
    resumed_from_step: int | None,
    together: int,
) -> None:
    """Publish the adapter, the last one or the best, and say what the run came to.

    Args:
        together: runs that shared the trainer.

    Raises:
        AdapterUnchanged: training changed nothing.
        LossNotFinite: a weight is no number any more.
    """
    progress, reporter = loop.progress, loop.reporter
    for sentence in describe_ending(
        progress.standing,
        progress.step,
        loop.plan.total_steps,
        publishes_best=bool(writer.spec.job.load_best_model_at_end),
        by=loop.best_by,
    ):
        note(reporter, EventLevel.INFO, sentence)
    if loop.best_by is not None and progress.standing.best is None:
        sentence = f"No evaluation had a score by {loop.best_by}, so the adapter of the last step is the result"
        note(reporter, EventLevel.WARN, sentence)
    loop.stopwatch.enter("saving")
    reporter.send(PhaseStarted(name="saving"))
    folder = writer.publish(progress, best_adapter)
    loop.results.write(writer.run_folder / RESULTS)
    best = None if best_adapter is None else progress.standing.best
    finished = Finished(
        folder=str(folder),
        steps=progress.step,
        adapter_step=progress.step if best is None else best.step,
        trained_on=writer.trained_on,
        trained_tokens=progress.trained_tokens,
        metrics=progress.metrics() if best is None else metrics_of(best),
        measured=_measure(loop, resumed_from_step, together),
        provenance=provenance,
    )
    write_finished(writer.run_folder, finished)
    reporter.send(finished)


def _measure(loop: TrainingLoop, resumed_from_step: int | None, together: int) -> Measured:
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
        resumed_from_step=resumed_from_step,
        together=together,
    )
