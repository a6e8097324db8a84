"""Run folders for the trainer's tests, and a reporter that remembers."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.base_models.registry import read_imported
from core.jobs.spec import FileRef, JobSpec, LoraSpec
from core.text.render_settings import OverLength, PromptFormat
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.trainer_process.messages import Message, StepDone
from worker.trainer_process.run_folder import TRAINING_FILE, VALIDATION_FILE, RunSpec, write_spec
from worker.training.data.examples import RunData, load_data
from worker.training.preparation import rendering_of
from worker.training.process.stopping import Stopped
from worker.training.together import run

M = TypeVar("M", bound=Message)
Line = dict[str, Any]

# Lengths differ, so that padding and the cut into micro-batches matter.
SUMS: tuple[Line, ...] = tuple(
    {"prompt": f"{'Please add. ' * (a % 4)}{a}+{b}=", "completion": f" {a + b}{'!' * (b % 3)}"}
    for a in range(6)
    for b in range(4)
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the trainer handles it."""


class RecordingReporter:
    """Keeps the messages, and lets a test act on one as it comes."""

    def __init__(self, on_message: Callable[[Message], None] = lambda _: None) -> None:
        self.messages: list[Message] = []
        self._on_message = on_message

    def send(self, message: Message) -> None:
        self.messages.append(message)
        self._on_message(message)

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.messages if isinstance(message, kind)]


def kill_after(step: int) -> RecordingReporter:
    """A reporter under which the process dies as soon as the step is done."""

    def on_message(message: Message) -> None:
        if isinstance(message, StepDone) and message.step == step:
            raise Killed

    return RecordingReporter(on_message)


def file_ref(file_type: str = "jsonl") -> FileRef:
    """Name an uploaded file of which only the type matters."""
    return FileRef(id="file-1", sha256="0" * 64, examples=0, file_type=file_type)


def make_job(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "base_model": "tiny",
        "training_file": file_ref(),
        "validation_file": None,
        "n_epochs": 2,
        "batch_size": 5,
        "learning_rate": 5e-3,
        "learning_rate_multiplier": 1.0,
        "lora": LoraSpec(rank=4, alpha=8),
        "prompt_loss_weight": 0.0,
        "train_on": "all_assistant",
        "prompt_format": None,
        "max_length": 128,
        "over_length": "drop",
        "seed": 0,
    }
    return JobSpec.model_validate(fields | changes)


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_run(
    folder: Path,
    base: Path,
    lines: Sequence[Line] = SUMS,
    *,
    validation: Sequence[Line] | None = None,
    resume_from: tuple[Path, ...] = (),
    dtype: str = "float32",
    kernels_folder: Path | None = None,
    **job: Any,
) -> Path:
    """Write a run folder, as the worker does."""
    folder.mkdir(parents=True)
    write_lines(folder / TRAINING_FILE, lines)
    if validation is not None:
        write_lines(folder / VALIDATION_FILE, validation)
    spec = RunSpec.model_validate(
        {
            "job_id": "ftjob-1",
            "token": 1,
            "job": make_job(**{"validation_file": None if validation is None else file_ref()} | job),
            "base_model_folder": str(base),
            "base_model_fingerprint": read_imported(base).fingerprint,
            "base_model_dtype": dtype,
            "validation_file": None if validation is None else VALIDATION_FILE,
            "resume_from": tuple(map(str, resume_from)),
            "adapter_name": "ft:tiny:local::1",
            "kernels_folder": None if kernels_folder is None else str(kernels_folder),
        }
    )
    write_spec(folder, spec)
    return folder


def never_stop() -> None:
    """Let the trainer go on."""


def train(folder: Path, reporter: RecordingReporter | None = None) -> RecordingReporter:
    """Run the trainer in this process."""
    reporter = reporter or RecordingReporter()
    run(folder, reporter, never_stop)
    return reporter


def stop_after(folder: Path, step: int) -> RecordingReporter:
    """Tell the trainer to stop once the step is done."""
    must_stop = False

    def on_message(message: Message) -> None:
        nonlocal must_stop
        must_stop = must_stop or (isinstance(message, StepDone) and message.step == step)

    def check_stop() -> None:
        if must_stop:
            raise Stopped

    reporter = RecordingReporter(on_message)
    try:
        run(folder, reporter, check_stop)
    except Stopped:
        return reporter
    raise AssertionError("the trainer went on to its end")


def render(
    folder: Path,
    base: Path,
    lines: Sequence[Line],
    *,
    validation: Sequence[Line] | None = None,
    prompt_loss_weight: float = 0.0,
    prompt_format: PromptFormat | None = None,
    max_length: int = 128,
    over_length: OverLength = "drop",
    seed: int = 0,
    renderer: type[Renderer] = Renderer,
) -> RunData:
    """Render lines as a run would."""
    training_file, validation_file = folder / TRAINING_FILE, folder / VALIDATION_FILE
    write_lines(training_file, lines)
    write_lines(validation_file, validation or ())
    job = make_job(
        prompt_loss_weight=prompt_loss_weight,
        prompt_format=prompt_format,
        max_length=max_length,
        over_length=over_length,
        seed=seed,
        validation_file=None if validation is None else file_ref(),
    )
    return load_data(
        renderer(TextTokenizer.from_folder(base), rendering_of(job, base)),
        job,
        training_file=training_file,
        validation_file=None if validation is None else validation_file,
        check_stop=never_stop,
    )
