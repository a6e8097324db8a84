"""What an evaluation is to do: which models are asked which rows, and by which metrics the answers are scored.

Complete, as a job's specification is: which rows they are, and every "auto", was decided when the evaluation was made.
Knows no database and no HTTP.
"""

from collections.abc import Sequence
from typing import Final

from core.evaluations.general_text import PASSAGES
from core.evaluations.scores import NATS
from core.jobs.spec import AdapterRef, FileRef
from core.scoring.exactness import Normalization
from core.scoring.registry import METRICS, Metric, exact_match_by
from core.serving.generation import SamplingParams
from core.text.render_settings import RenderSettings
from core.values import Frozen

MAX_MODELS: Final = 8
MAX_ROWS: Final = 10_000
LINES_NAMED: Final = 20  # of those that cannot be scored, or may not


class JudgedModel(Frozen):
    """A model that is asked: by content, as its name may be deleted before it is. ``adapter`` None: the base model."""

    name: str
    adapter: AdapterRef | None = None


class TrainedRows(Frozen):
    """Some rows that a model was trained on, by which it is asked what it learnt by heart."""

    model: str
    file: FileRef
    rendering: RenderSettings
    lines: tuple[int, ...]  # ascending


class EvaluationSpec(RenderSettings):
    """Everything that decides an evaluation's scores. Its JSON is flat, and stored with the job.

    Attributes:
        file: whose rows are asked.
        job: whose held-out part of it they are; None: they are the file's.
        lines: of the rows, ascending. Those that were chosen and are too long are not among them.
        too_long: how many those are.
        learnt: how many rows were left out because a model was trained on their prompts. Only the evaluation that ends
            a training leaves any out; a request for one is refused them.
        models: the others are compared with the first.
        metrics: names; verdicts on the first are the main ones.
        labels: the distinct answers of the whole file; None: no metric asks for them.
        gates: as they were written.
        unchecked_models: those of which nobody knows any more what they were trained on.
        general_text: version of the general text that base model and adapters are asked for a report on memory; None:
            there is to be none.
        trained: of each adapter whose training is known, for that report.

    Rows are numbered through: those that are judged, the passages of general text, then each adapter's trained ones.
    """

    base_model: str
    base_model_fingerprint: str
    context_tokens: int
    file: FileRef
    job: str | None
    lines: tuple[int, ...]
    too_long: int
    learnt: int = 0
    models: tuple[JudgedModel, ...]
    metrics: tuple[str, ...]
    normalization: Normalization
    labels: tuple[str, ...] | None
    sampling: SamplingParams
    gates: tuple[str, ...]
    unchecked_models: tuple[str, ...] = ()
    general_text: int | None = None
    trained: tuple[TrainedRows, ...] = ()

    @property
    def scoring(self) -> tuple[Metric, ...]:
        """The metrics themselves, in the order in which they were asked for."""
        return tuple(metric_of(name, self.normalization) for name in self.metrics)

    @property
    def judged_rows(self) -> range:
        """The numbers of the rows that the models are judged by."""
        return range(len(self.lines))

    @property
    def general_rows(self) -> range:
        """The numbers of the passages of general text."""
        return range(len(self.lines), len(self.lines) + (0 if self.general_text is None else len(PASSAGES)))

    def trained_rows(self, place: int) -> range:
        """Give the numbers of the rows of ``trained[place]``."""
        begin = self.general_rows.stop + sum(len(rows.lines) for rows in self.trained[:place])
        return range(begin, begin + len(self.trained[place].lines))

    @property
    def base_index(self) -> int:
        """The place of the base model itself among the models; there is one where a report on memory is wanted."""
        return next(place for place, model in enumerate(self.models) if model.adapter is None)

    @property
    def needs_answers(self) -> bool:
        """Whether the models have to write something; else they only judge the references."""
        return any(metric.needs_answer for metric in self.scoring)

    @property
    def needs_likelihoods(self) -> bool:
        """Whether the models have to say how likely the references are."""
        return any(metric.needs & {"logprobs", "most_likely"} for metric in self.scoring)


def can_report_memory(models: Sequence[JudgedModel], metrics: Sequence[str]) -> bool:
    """Tell whether there can be a report on memory: base model and adapters are asked, and how surprised they are."""
    is_base = [model.adapter is None for model in models]
    return any(is_base) and not all(is_base) and NATS in metrics


def metric_of(name: str, normalization: Normalization) -> Metric:
    """Give a metric by its name; exact match by what it leaves aside.

    Raises:
        KeyError: there is no such metric.
    """
    return exact_match_by(normalization) if name == "exact_match" else METRICS[name]
