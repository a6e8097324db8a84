"""Every metric by its name: what it is, whether more is better, its range, what it needs, how it is compared.

How a metric is computed is its own function's, how two models are compared `core.scoring.statistics`'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, Literal

from core.errors import InvalidParameter
from core.scoring import behaviour, exactness, likelihood, overlap
from core.scoring.exactness import Normalization
from core.scoring.sample import Part, Sample

Kind = Literal["binary", "bounded", "real"]
Better = Literal["higher", "lower", "neither"]

_BOTH: Final = frozenset[Part]({"answer", "reference"})


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one row.

    Attributes:
        meaning: a sentence for people.
        better: which way is better; ``neither``: it describes, and no verdict goes by it.
        smallest, largest: the range of its values.
        needs: the parts of a sample without which it is None.
        kind: what its values can be: 0 or 1, a share, any number of its range.
        per: what a mean over rows is a mean of: answers, or the tokens of the references.
    """

    name: str
    meaning: str
    better: Better
    kind: Kind
    needs: frozenset[Part]
    compute: Callable[[Sample], float | None] = field(repr=False)
    smallest: float = 0.0
    largest: float = 1.0
    per: Literal["answer", "token"] = "answer"

    def score(self, sample: Sample) -> float | None:
        """Score one row; None where it is not defined, never 0 in its place."""
        return None if sample.lacks(self.needs) else self.compute(sample)

    @property
    def needs_answer(self) -> bool:
        """Whether a model has to write something; else it only judges the reference."""
        return bool(self.needs & {"answer", "stopped"})

    def is_defined_for(self, reference: str, *, tokens: int, labels: frozenset[str] | None = None) -> bool:
        """Tell whether the perfect answer to a row has a score; where it has none, no answer's means anything.

        Args:
            tokens: of the reference, that count.
        """
        perfect = Sample(
            answer=reference if "reference" in self.needs else "one two three four",
            reference=reference,
            labels=labels,
            stopped=True,
            logprobs=(0.0,) * tokens,
            most_likely=(True,) * tokens,
        )
        return self.score(perfect) is not None


def exact_match_by(normalization: Normalization) -> Metric:
    """Give the exact match of a run, which says what does not count."""
    return Metric(
        name="exact_match",
        meaning=f"the answer is the reference ({_SAID[normalization]})",
        better="higher",
        kind="binary",
        needs=_BOTH,
        compute=partial(exactness.exact_match, normalization=normalization),
    )


_SAID: Final[Mapping[Normalization, str]] = {
    "none": "character by character",
    "strip": "white space at both ends aside",
    "casefold": "case, and white space at both ends, aside",
    "json": "as JSON, however it is written",
}

_LISTED: Final = (
    exact_match_by("strip"),
    Metric(
        name="token_f1",
        meaning="words that answer and reference share, in any order",
        better="higher",
        kind="bounded",
        needs=_BOTH,
        compute=overlap.token_f1,
    ),
    Metric(
        name="rouge_l",
        meaning="words that answer and reference share, in the same order",
        better="higher",
        kind="bounded",
        needs=_BOTH,
        compute=overlap.rouge_l,
    ),
    Metric(
        name="chrf",
        meaning="runs of characters that answer and reference share",
        better="higher",
        kind="bounded",
        needs=_BOTH,
        compute=overlap.chrf,
    ),
    Metric(
        name="edit_similarity",
        meaning="characters that need not be inserted or deleted to make one text of the other",
        better="higher",
        kind="bounded",
        needs=_BOTH,
        compute=overlap.edit_similarity,
    ),
    Metric(
        name="json_field_f1",
        meaning="values of the reference's JSON that stand in the answer's at the same place",
        better="higher",
        kind="bounded",
        needs=_BOTH,
        compute=exactness.json_field_f1,
    ),
    Metric(
        name="numeric_match",
        meaning="the last number of the answer is the reference's",
        better="higher",
        kind="binary",
        needs=_BOTH,
        compute=exactness.numeric_match,
    ),
    Metric(
        name="label_accuracy",
        meaning="the answer is the right one of a few labels",
        better="higher",
        kind="binary",
        needs=_BOTH | {"labels"},
        compute=exactness.label_accuracy,
    ),
    Metric(
        name="stop_rate",
        meaning="the model ends its answer itself",
        better="higher",
        kind="binary",
        needs=frozenset({"stopped"}),
        compute=behaviour.stop_rate,
    ),
    Metric(
        name="length_ratio",
        meaning="characters of the answer for each of the reference",
        better="neither",
        kind="real",
        needs=_BOTH,
        compute=behaviour.length_ratio,
        largest=inf,
    ),
    Metric(
        name="repetition",
        meaning="runs of four words that the answer has again",
        better="lower",
        kind="bounded",
        needs=frozenset({"answer"}),
        compute=behaviour.repetition,
    ),
    Metric(
        name="nats_per_token",
        meaning="how surprised the model is by a token of the reference",
        better="lower",
        kind="real",
        needs=frozenset({"logprobs"}),
        compute=likelihood.nats_per_token,
        largest=inf,
        per="token",
    ),
    Metric(
        name="token_accuracy",
        meaning="tokens of the reference that the model holds the most likely ones",
        better="higher",
        kind="bounded",
        needs=frozenset({"most_likely"}),
        compute=likelihood.token_accuracy,
        per="token",
    ),
    Metric(
        name="reference_probability",
        meaning="how probable the whole reference is",
        better="higher",
        kind="bounded",
        needs=frozenset({"logprobs"}),
        compute=likelihood.reference_probability,
    ),
)

# What a trainer, which has neither the file's labels nor each row's probability, can score by between its steps.
SCORED_IN_TRAINING: Final = frozenset(metric.name for metric in _LISTED) - {"label_accuracy", "reference_probability"}

METRICS: Final[Mapping[str, Metric]] = {metric.name: metric for metric in _LISTED}


def require_metrics(names: Sequence[str], param: str) -> None:
    """Make sure that names are of metrics, each once.

    Args:
        param: the request's field that holds them.

    Raises:
        InvalidParameter: one is not; the sentence names the metrics that there are.
    """
    for place, name in enumerate(names):
        if name not in METRICS:
            raise InvalidParameter(f"{param}[{place}]", f"there is no metric {name}; there are {', '.join(METRICS)}")
        if name in names[:place]:
            raise InvalidParameter(f"{param}[{place}]", f"{name} is named twice")
