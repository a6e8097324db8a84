"""Turns what a trainer says into a job's events and progress. Writes nothing itself."""

from dataclasses import dataclass, field
from typing import Any, assert_never

from core.jobs.events import EventType, JobEvent
from worker.trainer_process.messages import (
    CheckpointWritten,
    Evaluated,
    Failed,
    Finished,
    HeldOutAnswers,
    Interrupted,
    KeepAlive,
    Message,
    Note,
    PhaseStarted,
    Resumed,
    StepDone,
)


@dataclass
class Journal:
    """What is known of a running attempt, and which events of it are not in the database yet."""

    pending: list[JobEvent] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    last_step: int | None = None
    resumed_from_step: int | None = None  # None again once it is written
    finished: Finished | None = None
    failed: Failed | None = None

    def take(self, message: Message) -> None:
        """Note one message of the trainer."""
        match message:
            case KeepAlive() | Interrupted():
                return
            case PhaseStarted(name=name):
                self.progress["phase"] = name
            case Note():
                self.pending.append(JobEvent(message.message, message.level, data=message.data))
            case StepDone():
                self._take_step(message)
            case Evaluated():
                self._take_evaluation(message)
            case HeldOutAnswers():
                self._take_answers(message)
            case CheckpointWritten(step=step):
                self.pending.append(JobEvent(f"Checkpoint written at step {step}", data={"step": step}))
            case Resumed(step=step):
                self.resumed_from_step = step
                self.pending.append(JobEvent(f"Resumed from the checkpoint of step {step}", data={"step": step}))
            case Finished():
                self.finished = message
            case Failed():
                self.failed = message
            case _:
                assert_never(message)

    def _take_step(self, step: StepDone) -> None:
        self.last_step = step.step
        # the names of OpenAI's metrics events, and ours beside them
        numbers = step.model_dump(exclude={"type", "completion_loss", "token_accuracy"})
        numbers |= {"train_loss": step.completion_loss, "train_mean_token_accuracy": step.token_accuracy}
        self.progress |= numbers
        self.pending.append(
            JobEvent(
                f"Step {step.step}/{step.total_steps}: training loss={_written(step.completion_loss)}",
                type=EventType.METRICS,
                data=numbers,
            )
        )

    def _take_evaluation(self, evaluated: Evaluated) -> None:
        scores: dict[str, float | None] = {
            "full_valid_loss": evaluated.loss,
            "full_valid_mean_token_accuracy": evaluated.token_accuracy,
        }
        if evaluated.exact_match is not None and evaluated.stop_rate is not None:
            scores |= {"exact_match": evaluated.exact_match, "stop_rate": evaluated.stop_rate}
        scores |= evaluated.named_scores
        self.progress |= scores
        counts = {"step": evaluated.step, "valid_tokens": evaluated.tokens, "valid_examples": evaluated.examples}
        self.pending.append(
            JobEvent(
                f"Step {evaluated.step}: validation loss={_written(evaluated.loss)}",
                type=EventType.METRICS,
                data=counts | scores,
            )
        )

    def _take_answers(self, message: HeldOutAnswers) -> None:
        judged = [answer for answer in message.answers if answer.exact is not None]
        exact, stopped = sum(bool(answer.exact) for answer in judged), sum(bool(answer.stopped) for answer in judged)
        self.pending.append(
            JobEvent(
                f"Step {message.step}: {len(message.answers)} held-out prompts answered; of {len(judged)} whose "
                f"completion is short enough to compare, {exact} exactly, {stopped} ended by the model itself",
                data={"step": message.step, "samples": [answer.model_dump() for answer in message.answers]},
            )
        )


def _written(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"
