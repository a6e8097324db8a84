"""What the trainer says on its pipe: one JSON object a line, a message of one of its runs, told apart by ``type``.

Torch-free, because the worker reads it. How often a message becomes a job event is the worker's matter.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field

from core.estimates.estimate import Measured
from core.jobs.events import EventLevel
from core.provenance.record import Provenance
from core.ratio import ratio
from core.values import Frozen

SCORE_PREFIX: Final = "eval_"  # as transformers names what an evaluation finds


class PhaseStarted(Frozen):
    """The trainer begins something that takes time: loading, rendering, training, evaluating, saving."""

    type: Literal["phase"] = "phase"
    name: str


class Note(Frozen):
    """Something a person should read. ``data`` holds the numbers of the sentence."""

    type: Literal["note"] = "note"
    level: EventLevel
    message: str
    data: dict[str, float | int | str | list[int]] | None = None


class StepSeconds(Frozen):
    """Where a step's time went, in seconds; on a GPU see ``worker.training.measure.step_times`` for what these mean."""

    total: float
    data: float
    forward: float
    backward: float
    optimizer: float


class StepDone(Frozen):
    """An optimizer step was taken. ``loss`` is the weighted objective over the step's tokens.

    The means over completion tokens and over prompt tokens are None where the step had none with a weight.
    """

    type: Literal["step_done"] = "step_done"
    step: int  # steps taken so far, this one included
    total_steps: int
    epoch: float  # passes over the data so far
    loss: float
    completion_loss: float | None  # nats per completion token; comparable across prompt_loss_weight
    prompt_loss: float | None  # nats per prompt token with a weight
    token_accuracy: float | None  # share of completion tokens that were the most likely one
    learning_rate: float
    grad_norm: float  # before clipping
    trained_tokens: int  # tokens with weight above 0, so far
    seen_tokens: int  # tokens that went through the model, padding not counted, so far
    padding_tokens: int  # inputs that belong to no example, so far
    tokens_per_s: float  # seen tokens per second, smoothed
    mfu: float | None  # share of the machine's own matrix product speed that the step's work needs, smoothed
    seconds: StepSeconds
    eta_s: float
    memory_bytes: int  # peak: of the process on a CPU, of the device otherwise


class Evaluated(Frozen):
    """Held-out examples were scored. ``loss`` is nats per completion token, whatever the prompt's weight.

    It and ``token_accuracy`` are None where no completion token has a weight. ``exact_match`` and ``stop_rate`` are
    those of the `HeldOutAnswers`.
    """

    type: Literal["evaluated"] = "evaluated"
    step: int
    loss: float | None
    token_accuracy: float | None
    tokens: int  # that were scored
    examples: int
    exact_match: float | None = None  # answered with the completion itself and nothing behind it
    stop_rate: float | None = None  # ended by the model itself, not by the limit of new tokens
    scores: dict[str, float | None] = Field(default_factory=dict)  # means by the metrics that the job asks for

    @property
    def named_scores(self) -> dict[str, float | None]:
        """The scores by the names that they have in events, checkpoints and the result file."""
        return {f"{SCORE_PREFIX}{name}": score for name, score in self.scores.items()}


class HeldOutAnswer(Frozen):
    """A held-out prompt and what the model makes of it; a long prompt shows its end.

    ``stopped`` and ``exact`` are None where the completion is longer than what the model may write.
    """

    prompt: str
    expected: str
    got: str
    stopped: bool | None  # by itself, within the limit of new tokens
    exact: bool | None


class HeldOutAnswers(Frozen):
    """Held-out prompts were answered, always with the most likely token."""

    type: Literal["held_out_answers"] = "held_out_answers"
    step: int
    answers: tuple[HeldOutAnswer, ...]

    @property
    def exact_match(self) -> float | None:
        """The share of what can be judged; None where nothing can."""
        return _share(answer.exact for answer in self.answers)

    @property
    def stop_rate(self) -> float | None:
        return _share(answer.stopped for answer in self.answers)


class CheckpointWritten(Frozen):
    """A checkpoint is complete on disk. ``metrics`` uses OpenAI's names of a checkpoint's metrics."""

    type: Literal["checkpoint_written"] = "checkpoint_written"
    step: int
    folder: str  # absolute; its ``adapter`` folder can be served
    metrics: dict[str, float | None]


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
    adapter_step: int  # after which the adapter stood; before the last one where an earlier was the best
    trained_on: str  # one sentence: how many tokens of which kind the adapter learnt from
    trained_tokens: int
    metrics: dict[str, float | None]
    measured: Measured
    provenance: Provenance | None = None  # None: said by a trainer of an earlier version, in a folder that it left


class Failed(Frozen):
    """The run cannot go on; nothing follows. ``lines`` are the training file's lines concerned.

    ``of_host``: the machine is at fault, not the job, which another machine or this one later may run. ``unsuited``:
    beside that the machine is sound, only not what this job needs.
    """

    type: Literal["failed"] = "failed"
    code: str
    message: str
    lines: tuple[int, ...] = ()
    of_host: bool = False
    unsuited: bool = False


class Interrupted(Frozen):
    """The run was told to stop and can be gone on with; nothing follows."""

    type: Literal["interrupted"] = "interrupted"


class KeepAlive(Frozen):
    """The trainer's work goes on, of all its runs, though there is nothing else to report yet."""

    type: Literal["alive"] = "alive"


Message = Annotated[
    PhaseStarted
    | Note
    | StepDone
    | Evaluated
    | HeldOutAnswers
    | CheckpointWritten
    | Resumed
    | Finished
    | Failed
    | Interrupted
    | KeepAlive,
    Field(discriminator="type"),
]


class Said(Frozen):
    """A line of the pipe."""

    run: int  # whose message it is: a place among the run folders that the trainer was started with
    message: Message


def _share(judged: Iterable[bool | None]) -> float | None:
    verdicts = [verdict for verdict in judged if verdict is not None]
    return ratio(sum(verdicts), len(verdicts))


def parse(line: bytes) -> Said:
    """Read one line.

    Raises:
        pydantic.ValidationError: it is not a message.
    """
    return Said.model_validate_json(line)


def format_line(message: Message, run: int = 0) -> bytes:
    """Give the message as one line, newline included."""
    return Said(run=run, message=message).model_dump_json().encode() + b"\n"
