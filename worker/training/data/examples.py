"""The examples of a run as token ids and weights in flat arrays: those trained on, and those held out.

What text becomes which ids and weights is ``core.text.rendering``; in which order examples are
trained on is ``worker.training.data.plan``.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import AllExamplesDropped, EndNeverTrained, ExampleInvalid, NothingToScore, NoTrainedTokens
from core.jobs.spec import NOTHING_TO_SCORE, FileRef, JobSpec
from core.serving.adapter_format import TrainedPrompt
from core.text.files.examples import Example, ExampleFormat, LineProblem
from core.text.files.read import FILE_TYPES, read_examples
from core.text.partition import fit_to_score, partition
from core.text.rendering import ANSWER, RenderedExample, Renderer
from worker.training.data.kept_prompts import PromptKeeper
from worker.training.data.summary import LINES_NAMED, DataSummary
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


@dataclass(frozen=True)
class RunData:
    """What a run trains on and is scored on."""

    training: ExampleSet
    held_out: ExampleSet
    summary: DataSummary
    example_format: ExampleFormat
    prompts: tuple[TrainedPrompt, ...]  # for the adapter's manifest
    every_answer_counts: bool  # no answer's token has weight 0, so a token without is the prompt's
    unscored_lines: tuple[int, ...] = ()  # of the validation file, over max_length

    @property
    def scored_tokens(self) -> int:
        """Held-out tokens that an evaluation's loss is the mean of."""
        return int(self.held_out.is_completion.sum())

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.training.digest} {self.held_out.digest}".encode()).hexdigest()


def load_data(
    renderer: Renderer,
    job: JobSpec,
    *,
    training_file: Path,
    validation_file: Path | None,
    check_stop: CheckStop,
) -> RunData:
    """Render all examples; without a validation file a part of the prompts is held out (``core.text.held_out``).

    Raises:
        ExampleInvalid: an example cannot be rendered.
        ExampleOverLength: an example is too long and the job wants an error then.
        AllExamplesDropped: the length policy left nothing to train on.
        NoTrainedTokens: every weight is zero.
        EndNeverTrained: no closing token has a weight.
        ParquetNotInstalled: a file is Parquet, and the package that reads it is missing.
        Stopped: the trainer was told to stop.
    """

    def gather() -> GrowingSet:
        return GrowingSet(renderer)

    training = _File(training_file, job.training_file, renderer, check_stop)
    parts = partition(training, renderer, gather, holds_out=validation_file is None)
    summary = parts.trained.summary
    summary.held_out_examples = parts.held_out.summary.examples
    summary.dropped_lines, summary.untrained_lines = parts.dropped_lines, parts.untrained_lines
    _require_something_to_learn(summary)
    unscored_lines: list[int] = []
    if validation_file is not None and job.validation_file is not None:
        for rendered in _File(validation_file, job.validation_file, renderer, check_stop).examples():
            fitted = fit_to_score(rendered, renderer)
            if fitted is None:
                unscored_lines.append(rendered.line)
            else:
                parts.held_out.add(fitted)
    example_format = parts.trained.prompts.example_format
    assert example_format is not None
    masked = parts.trained.summary.untrained_answer_tokens + parts.held_out.summary.untrained_answer_tokens
    return RunData(
        parts.trained.finish(),
        parts.held_out.finish(),
        summary,
        example_format=example_format,
        prompts=parts.trained.prompts.prompts,
        every_answer_counts=not masked and not parts.untrained_lines,
        unscored_lines=tuple(unscored_lines),
    )


def require_scores(data: RunData, job: JobSpec) -> None:
    """Refuse a job that goes by what it is scored by, where there is nothing.

    Raises:
        NothingToScore: no held-out token has a weight.
    """
    if job.field_that_needs_scores is not None and not data.scored_tokens:
        raise NothingToScore(f"{job.field_that_needs_scores} {NOTHING_TO_SCORE}")


@dataclass(frozen=True)
class _File:
    """A file of the run folder, read from its beginning by each call: an ``ExampleSource``."""

    path: Path
    ref: FileRef
    renderer: Renderer
    check_stop: CheckStop

    def prompts(self) -> Iterator[str]:
        return map(self.renderer.prompt_text, self._read())

    def examples(self) -> Iterator[RenderedExample]:
        return map(self.renderer.example, self._read())

    def _read(self) -> Iterator[Example]:
        try:
            for example in read_examples(self.path, FILE_TYPES[self.ref.file_type]):
                self.check_stop()
                yield example
        except LineProblem as problem:
            raise ExampleInvalid(f"{self.path.name}: {problem}", (problem.line,)) from problem


class GrowingSet:
    """Grows an `ExampleSet` without an object per token; accounts for the examples, and keeps prompts of them."""

    def __init__(self, renderer: Renderer) -> None:
        self.summary = DataSummary()
        self.prompts = PromptKeeper(renderer)
        self._ids, self._weights, self._is_completion = array("i"), array("f"), array("b")
        self._offsets, self._lines = array("q", [0]), array("q")

    def add(self, fitted: RenderedExample) -> None:
        """Take an example as it was cut to fit."""
        self._weights.extend(fitted.weights)
        for segment in fitted.kept:
            is_completion = segment.reason in ANSWER and segment.weight > 0
            self._ids.extend(segment.ids)
            self._is_completion.extend([is_completion] * len(segment.ids))
        self._offsets.append(len(self._ids))
        self._lines.append(fitted.line)
        self.prompts.offer(fitted)
        self.summary.add(fitted)

    def finish(self) -> ExampleSet:
        """Give what was taken."""
        return ExampleSet(
            np.array(self._ids, dtype=np.int32),
            np.array(self._weights, dtype=np.float32),
            np.array(self._is_completion, dtype=np.bool_),
            np.array(self._offsets, dtype=np.int64),
            np.array(self._lines, dtype=np.int64),
        )


def _require_something_to_learn(summary: DataSummary) -> None:
    if not summary.examples and summary.untrained_lines:
        raise NoTrainedTokens(
            f"no token has a weight above 0, so there is nothing to learn: {'; '.join(summary.left_out)}",
            tuple(summary.untrained_lines[:LINES_NAMED]),
        )
    if not summary.examples:
        raise AllExamplesDropped(
            f"no example is left to train on: {'; '.join(summary.left_out)}; "
            "raise max_length, shorten the prompts, or use more examples",
            tuple(summary.dropped_lines[:LINES_NAMED]),
        )
    if not summary.completion_tokens:
        raise NoTrainedTokens("no completion token has a weight above 0, so there is no answer to learn")
    if not summary.closing_tokens:
        raise EndNeverTrained("no example trains the closing token, so the model would never learn to stop")
