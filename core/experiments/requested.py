"""What may be asked of an experiment: type, bounds and default of each field beside the job that all arms share.

An experiment trains the same rows in several ways, its *arms*, and asks which answers better. What an arm may change of
the job, and what it becomes, is ``core.experiments.arms``'; how a job's own fields look, ``core.jobs.requested``'s.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from core.scoring.registry import METRICS
from core.values import Frozen

MAX_ARMS: Final = 32
MAX_SEEDS: Final = 20
SEEDS: Final = 3  # where nothing else is asked for; see docs/scores.md
LABEL_WEIGHTS: Final = (0.0, 0.1, 1.0)  # of the question which labels are right
# beside the one that decides, where nothing else is asked for
METRICS_BESIDE: Final = ("token_accuracy", "exact_match", "chrf", "stop_rate", "length_ratio")


def _known(name: str) -> str:
    if name not in METRICS:
        raise PydanticCustomError("metric", "is no metric; there are {known}", {"known": ", ".join(METRICS)})
    return name


def _deciding(name: str) -> str:
    if METRICS[_known(name)].better == "neither":
        raise PydanticCustomError(
            "metric", "describes, and neither more nor less of it is better, so no verdict can go by it"
        )
    return name


T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]  # of a request in JSON, a list

MetricName = Annotated[str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(METRICS)})]
DecidingMetric = Annotated[
    str,
    AfterValidator(_deciding),
    WithJsonSchema({"type": "string", "enum": [name for name, one in METRICS.items() if one.better != "neither"]}),
]
TrainingSeed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ValueRange(Frozen):
    """Numbers to draw from: evenly, or evenly by their logarithms."""

    low: float
    high: float
    log: bool = False


class RandomArms(Frozen):
    """Arms that are drawn: each field's value from a list or from a range, by a seed."""

    n: int = Field(ge=2, le=MAX_ARMS)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    fields: dict[str, Listed[Any] | ValueRange] = Field(min_length=1, max_length=16)


class ExperimentFields(Frozen):
    """All but the arms may be left out, and the arms too where a question has its own."""

    question: Literal["labels"] | None = Field(
        None, description="labels: which weight of the prompt is right. Its arms are the weights."
    )
    weights: Listed[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, min_length=1, max_length=MAX_ARMS, description="Of the question labels; 0, 0.1 and 1 where left out."
    )
    arms: Listed[dict[str, Any]] | None = Field(
        None, min_length=1, max_length=MAX_ARMS, description="Each has a name, if wanted, and fields of a job."
    )
    grid: dict[str, Listed[Any]] | None = Field(
        None, min_length=1, max_length=16, description="Every combination of these fields' values."
    )
    random: RandomArms | None = None
    base: bool = Field(True, description="Whether the base model, as it is, is judged beside the arms.")
    seeds: int | Listed[TrainingSeed] = Field(
        SEEDS, description=f"How many, counted from 1, or which; at most {MAX_SEEDS}."
    )
    primary_metric: DecidingMetric = Field("nats_per_token", description="The one that verdicts go by.")
    metrics: Listed[MetricName] = Field(METRICS_BESIDE, max_length=len(METRICS), description="Others to show.")
    margin: float | None = Field(None, gt=0, description="δ: a smaller difference does not matter.")
    tune: Literal["learning_rate"] | None = Field(
        None, description="Also compare the arms each at the best of three learning rates, by the choosing part."
    )
    prune: bool = Field(False, description="Train only arms further whose interval overlaps the best one's.")
    budget_s: int | None = Field(
        None, ge=1, le=10**8, description="Seconds of training; no seed is begun that would exceed them."
    )
