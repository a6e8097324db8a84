"""The examples of a run as token ids and weights in flat arrays: those trained on, and those held out.

What text becomes which ids and weights is ``core.text.rendering``; in which order examples are
trained on is ``worker.training.data.plan``.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import AllExamplesDropped, EndNeverTrained, ExampleInvalid, NoTrainedTokens
from core.jobs.spec import FileRef, JobSpec
from core.serving.adapter_format import TrainedPrompt
from core.text.files.examples import Example, ExampleFormat, LineProblem
from core.text.files.read import read_examples
from core.text.rendering import ANSWER, RenderedExample, Renderer
from core.text.split import held_out, prompt_key
from worker.training.data.kept_prompts import PromptKeeper
from worker.training.data.summary import LINES_NAMED, Account
from worker.training.process.stopping import CheckStop


@dataclass(frozen=True)
class TokenizedExample:
    """One example. ``weights_T[t]`` is the weight of predicting token t; the first token is never predicted."""

    ids_T: npt.NDArray[np.int32]
    weights_T: npt.NDArray[np.float32]
    is_completion_T: npt.NDArray[np.bool_]  # completion or closing token with a weight above 0


@dataclass(frozen=True)
class ExampleSet:
    """Many examples, one behind the other; example i is tokens ``offsets[i]`` to ``offsets[i + 1]``."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    is_completion: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]  # line of each example in its file, from 1

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> TokenizedExample:
        tokens = slice(self.offsets[index], self.offsets[index + 1])
        return TokenizedExample(self.ids[tokens], self.weights[tokens], self.is_completion[tokens])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """SHA-256 of all ids and weights: equal digests train equally."""
        digest = hashlib.sha256(b"loramill examples 1\n")
        for values in (self.ids, self.weights, self.is_completion, self.offsets):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


class _Collector:
    """Grows an `ExampleSet` without an object per token."""

    def __init__(self) -> None:
        self._ids, self._weights, self._is_completion = array("i"), array("f"), array("b")
        self._offsets, self._lines = array("q", [0]), array("q")

    def add(self, rendered: RenderedExample) -> None:
        self._weights.extend(rendered.weights)
        for segment in rendered.kept:
            is_completion = segment.reason in ANSWER and segment.weight > 0
            self._ids.extend(segment.ids)
            self._is_completion.extend([is_completion] * len(segment.ids))
        self._offsets.append(len(self._ids))
        self._lines.append(rendered.line)

    def finish(self) -> ExampleSet:
        return ExampleSet(
            np.array(self._ids, dtype=np.int32),
            np.array(self._weights, dtype=np.float32),
            np.array(self._is_completion, dtype=np.bool_),
            np.array(self._offsets, dtype=np.int64),
            np.array(self._lines, dtype=np.int64),
        )


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is scored on."""

    training: ExampleSet
    held_out: ExampleSet
    account: Account
    example_format: ExampleFormat
    prompts: tuple[TrainedPrompt, ...]  # for the adapter's manifest
    unscored_lines: tuple[int, ...] = ()  # of the validation file, over max_length

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.training.digest} {self.held_out.digest}".encode()).hexdigest()


def load_data(
    renderer: Renderer,
    job: JobSpec,
    *,
    training_file: Path,
    validation_file: Path | None,
    context_tokens: int,
    check_stop: CheckStop,
) -> RunData:
    """Render all examples; without a validation file a tenth of the prompts is held out by their hash.

    Raises:
        ExampleInvalid: an example cannot be rendered.
        ExampleOverLength: an example is too long and the job wants an error then.
        AllExamplesDropped: the length policy left nothing to train on.
        NoTrainedTokens: every weight is zero.
        EndNeverTrained: no closing token has a weight.
        ParquetNotInstalled: a file is Parquet, and the package that reads it is missing.
        Stopped: the trainer was told to stop.
    """
    max_length = min(job.max_length, context_tokens)
    training = _rendered(training_file, job.training_file, renderer, check_stop)
    trained, scored = _sort(training, renderer, job, max_length, holds_out=validation_file is None)
    _require_something_to_learn(trained.account)
    unscored_lines: list[int] = []
    if validation_file is not None and job.validation_file is not None:
        for source, example in _rendered(validation_file, job.validation_file, renderer, check_stop):
            # too long to be scored is no reason to fail a job, whatever the policy for training says
            fitted = renderer.fit(example, max_length, "drop")
            if fitted is None:
                unscored_lines.append(example.line)
            else:
                scored.add(source, fitted)
    assert trained.prompts.example_format is not None
    return RunData(
        trained.examples.finish(),
        scored.examples.finish(),
        trained.account,
        example_format=trained.prompts.example_format,
        prompts=trained.prompts.prompts,
        unscored_lines=tuple(unscored_lines),
    )


def _rendered(
    path: Path, file: FileRef, renderer: Renderer, check_stop: CheckStop
) -> Iterator[tuple[Example, RenderedExample]]:
    try:
        for example in read_examples(path, file.file_type):
            check_stop()
            yield example, renderer.example(example)
    except LineProblem as problem:
        raise ExampleInvalid(f"{path.name}: {problem}", (problem.line,)) from problem


def _sort(
    examples: Iterable[tuple[Example, RenderedExample]],
    renderer: Renderer,
    job: JobSpec,
    max_length: int,
    *,
    holds_out: bool,
) -> tuple["_Side", "_Side"]:
    """Give the training file's examples that are trained on, and those that are held out."""
    trained, scored = _Side(renderer, job), _Side(renderer, job)
    dropped_lines: list[int] = []
    untrained_lines: list[int] = []
    for source, example in examples:
        fitted = renderer.fit(example, max_length, job.over_length)
        if fitted is None:
            dropped_lines.append(example.line)
        elif not fitted.trained_tokens:
            untrained_lines.append(example.line)
        elif holds_out and held_out(prompt_key(example.prompt_ids), job.seed):
            scored.add(source, fitted)
        else:
            trained.add(source, fitted)
    if not trained.account.examples:
        trained, scored = scored, trained  # of one or two prompts all can be drawn; then none is held out
    account = trained.account
    account.held_out_examples = scored.account.examples
    account.dropped_lines, account.untrained_lines = dropped_lines, untrained_lines
    return trained, scored


class _Side:
    """Examples that are trained on, or those that are scored, while they come."""

    def __init__(self, renderer: Renderer, job: JobSpec) -> None:
        self.examples = _Collector()
        self.account = Account()
        self.prompts = PromptKeeper(renderer, job)

    def add(self, source: Example, fitted: RenderedExample) -> None:
        self.examples.add(fitted)
        self.prompts.offer(source, fitted)
        self.account.add(fitted)


def _require_something_to_learn(account: Account) -> None:
    if not account.examples and account.untrained_lines:
        raise NoTrainedTokens(
            f"no token has a weight above 0, so there is nothing to learn: {'; '.join(account.left_out)}",
            tuple(account.untrained_lines[:LINES_NAMED]),
        )
    if not account.examples:
        raise AllExamplesDropped(
            f"no example is left to train on: {'; '.join(account.left_out)}; "
            "raise max_length, shorten the prompts, or use more examples",
            tuple(account.dropped_lines[:LINES_NAMED]),
        )
    if not account.completion_tokens:
        raise NoTrainedTokens("no completion token has a weight above 0, so there is no answer to learn")
    if not account.closing_tokens:
        raise EndNeverTrained("no example trains the closing token, so the model would never learn to stop")
