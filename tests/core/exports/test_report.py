"""The verdict on an export: what is above a bound, or no number, fails it."""

from typing import Any

import pytest

from core.errors import ExportDiffers
from core.exports.report import BOUNDS, ExportReport, PromptReport, TensorReport, require_within_bounds

PROMPT: dict[str, Any] = {
    "part": "held_out",
    "tokens": 10,
    "other_tokens": 1,
    "continued": 4,
    "same_continuation": 4,
    "logit_difference": 0.01,
    "divergence_nats": 1e-4,
}
TENSORS: dict[str, Any] = {"compared": 3, "adapted": 2, "step_error": 0.0, "other_share": 0.0, "kept_change": 0.98}


def report(tensors: dict[str, Any] | None = None, **prompt: Any) -> ExportReport:
    return ExportReport(
        rounding="f16",
        prompts=(PromptReport(**PROMPT), PromptReport(**PROMPT | prompt)),
        tensors=TensorReport(**TENSORS | (tensors or {})),
    )


def test_what_is_within_all_bounds_passes() -> None:
    require_within_bounds(report())


@pytest.mark.parametrize("field", ["logit_difference", "divergence_nats"])
@pytest.mark.parametrize("factor", [1.01, float("nan"), float("inf")])
def test_a_prompt_above_a_bound_is_named(field: str, factor: float) -> None:
    bound = getattr(BOUNDS["f16"], field)
    require_within_bounds(report(**{field: bound}))
    with pytest.raises(ExportDiffers, match="held_out prompt 2"):
        require_within_bounds(report(**{field: bound * factor}))


@pytest.mark.parametrize("field", ["step_error", "other_share"])
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_numbers_above_a_bound_are_refused(field: str, factor: float) -> None:
    bound = getattr(BOUNDS["f16"], field)
    require_within_bounds(report({field: bound}))
    with pytest.raises(ExportDiffers, match="may be"):
        require_within_bounds(report({field: bound * factor}))


def test_the_verdict_is_a_sentence() -> None:
    assert report().text == (
        "On 2 prompts the most likely token is another at 2 of 20 places, and the largest divergence is 0.0001 nats a "
        "token; its numbers have 98.0% of the adapter's change."
    )
