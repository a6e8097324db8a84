"""What the trainer says on its pipe: one JSON object a line, told apart by ``type``.

Torch-free, because the worker reads it. How often a message becomes a job event is the worker's matter.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from core.estimate import Measured
from core.events import EventLevel
from core.jobs import Frozen


class Phase(Frozen):
    """The trainer begins something that takes time: loading, rendering, training, evaluating, saving."""

    type: Literal["phase"] = "phase"
    name: str


class Note(Frozen):
    """Something a person should read. ``data`` holds the numbers of the sentence."""

    type: Literal["note"] = "note"
    level: EventLevel
    message: str
    data: dict[str, float | int | str | list[int]] | None = None


class StepDone(Frozen):
    """An optimizer step was taken. ``loss`` is the weighted objective over the step's tokens."""

    type: Literal["step_done"] = "step_done"
    step: int  # steps taken so far, this one included
    total_steps: int
    epoch: float  # passes over the data so far
    loss: float
    completion_loss: float  # nats per completion token; comparable across prompt_loss_weight
    token_accuracy: float  # share of completion tokens that were the most likely one
    learning_rate: float
    grad_norm: float  # before clipping
    trained_tokens: int  # tokens with weight above 0, so far
    seen_tokens: int  # tokens that went through the model, padding not counted, so far
    tokens_per_s: float  # seen tokens per second, smoothed
    eta_s: float
    memory_bytes: int  # peak: of the process on a CPU, of the device otherwise


class Evaluated(Frozen):
    """Held-out examples were scored. ``loss`` is nats per completion token, whatever the prompt's weight."""

    type: Literal["evaluated"] = "evaluated"
    step: int
    loss: float
    token_accuracy: float
    tokens: int
    examples: int


class CheckpointWritten(Frozen):
    """A checkpoint is complete on disk. ``metrics`` uses OpenAI's names of a checkpoint's metrics."""

    type: Literal["checkpoint_written"] = "checkpoint_written"
    step: int
    folder: str  # absolute; its ``adapter`` folder can be served
    metrics: dict[str, float]


class Resumed(Frozen):
    """The run goes on after ``step`` from a checkpoint."""

    type: Literal["resumed"] = "resumed"
    step: int
    folder: str


class Finished(Frozen):
    """The adapter is complete on disk; nothing follows."""

    type: Literal["finished"] = "finished"
    folder: str  # absolute
    steps: int
    trained_on: str  # one sentence: how many tokens of which kind the adapter learnt from
    trained_tokens: int
    metrics: dict[str, float]
    measured: Measured


class Failed(Frozen):
    """The run cannot go on; nothing follows. ``lines`` are the training file's lines concerned."""

    type: Literal["failed"] = "failed"
    code: str
    message: str
    lines: tuple[int, ...] = ()


class Alive(Frozen):
    """The trainer's work goes on, though there is nothing else to report yet."""

    type: Literal["alive"] = "alive"


Message = Annotated[
    Phase | Note | StepDone | Evaluated | CheckpointWritten | Resumed | Finished | Failed | Alive,
    Field(discriminator="type"),
]

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


def parse(line: bytes) -> Message:
    """Read one line.

    Raises:
        pydantic.ValidationError: it is not a message.
    """
    return _ADAPTER.validate_json(line)


def format_line(message: Message) -> bytes:
    """Give the message as one line, newline included."""
    return message.model_dump_json().encode() + b"\n"
