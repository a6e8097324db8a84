"""Wire types of estimates: a job's own body in, what the job would take out."""

from typing import Literal

from core.estimates.estimate import Estimate


class EstimateOut(Estimate):
    """What a job of the same body would take; a job holds the same fields under ``estimate``."""

    object: Literal["fine_tuning.estimate"]
    model: str

    @classmethod
    def of(cls, estimate: Estimate, model: str) -> "EstimateOut":
        return cls(object="fine_tuning.estimate", model=model, **dict(estimate))
