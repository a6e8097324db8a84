"""Turns what a trainer says into a job's events and progress. Writes nothing itself."""

from dataclasses import dataclass, field
from typing import Any, assert_never

from core.events import EventLevel, EventType
from worker.messages import (
    Alive,
    CheckpointWritten,
    Evaluated,
    Failed,
    Finished,
    Message,
    Note,
    Phase,
    Resumed,
    StepDone,
)


@dataclass(frozen=True)
class Event:
    """A job event that is yet to be written."""

    message: str
    level: EventLevel = EventLevel.INFO
    type: EventType = EventType.MESSAGE
    data: dict[str, Any] | None = None


@dataclass
class Journal:
    """What is known of a running attempt, and which events of it are not in the database yet."""

    pending: list[Event] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    last_step: int | None = None
    resumed_from_step: int | None = None  # None again once it is written
    finished: Finished | None = None
    failed: Failed | None = None

    def take(self, message: Message) -> None:
        """Note one message of the trainer."""
        match message:
            case Alive():
                return
            case Phase(name=name):
                self.progress["phase"] = name
            case Note():
                self.pending.append(Event(message.message, message.level, data=message.data))
            case StepDone():
                self._take_step(message)
            case Evaluated():
                self._take_evaluation(message)
            case CheckpointWritten(step=step):
                self.pending.append(Event(f"Checkpoint written at step {step}", data={"step": step}))
            case Resumed(step=step):
                self.resumed_from_step = step
                self.pending.append(Event(f"Resumed from the checkpoint of step {step}", data={"step": step}))
            case Finished():
                self.finished = message
            case Failed():
                self.failed = message
            case _:
                assert_never(message)

    def _take_step(self, step: StepDone) -> None:
        self.last_step = step.step
        numbers = step.model_dump(exclude={"type", "loss", "token_accuracy"})
        self.progress |= numbers | {"train_loss": step.loss, "train_mean_token_accuracy": step.token_accuracy}
        self.pending.append(
            Event(
                f"Step {step.step}/{step.total_steps}: training loss={step.loss:.4f}",
                type=EventType.METRICS,
                # the names of OpenAI's metrics events, and ours beside them
                data=numbers | {"train_loss": step.loss, "train_mean_token_accuracy": step.token_accuracy},
            )
        )

    def _take_evaluation(self, evaluated: Evaluated) -> None:
        scores = {"full_valid_loss": evaluated.loss, "full_valid_mean_token_accuracy": evaluated.token_accuracy}
        self.progress |= scores
        counts = {"step": evaluated.step, "valid_tokens": evaluated.tokens, "valid_examples": evaluated.examples}
        self.pending.append(
            Event(
                f"Step {evaluated.step}: validation loss={evaluated.loss:.4f}",
                type=EventType.METRICS,
                data=counts | scores,
            )
        )
