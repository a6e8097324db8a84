"""Gates that people write, and whether a model passes them."""

from typing import Any

import pytest

from core.errors import InvalidParameter
from core.scoring.gates import BetterThan, Threshold, answer_better_than, answer_threshold, read_gate, with_model
from core.scoring.registry import METRICS
from core.scoring.statistics.bootstrap import Interval
from core.scoring.statistics.comparison import Arm, compare
from core.scoring.statistics.mean_score import MeanScore
from core.scoring.verdict import judge

EXACT, NATS = METRICS["exact_match"], METRICS["nats_per_token"]


def found(mean: float | None, low: float = 0, high: float = 0, **others: Any) -> MeanScore:
    fields = {"metric": "exact_match", "rows": 400, "left_out": 0, "clusters": 400, **others}
    interval = None if mean is None else Interval(low=low, high=high)
    return MeanScore.model_validate({**fields, "mean": mean, "interval": interval})


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("exact_match >= 0.9", Threshold(EXACT, ">=", 0.9)),
        ("  nats_per_token   <=  1.2e0 ", Threshold(NATS, "<=", 1.2)),
        ("exact_match better than support-bot@prod", BetterThan(EXACT, "support-bot@prod")),
        ("better than ft:a:b::c", BetterThan(NATS, "ft:a:b::c")),
    ],
)
def test_gates_are_read(text: str, gate: object) -> None:
    assert read_gate(text, "gates[0]", NATS) == gate


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the gate is empty; write"),
        ("accuracy >= 0.9", "character 1: 'accuracy' is no metric; there are exact_match, "),
        (" length_ratio <= 2", "character 2: 'length_ratio' describes"),
        ("exact_match", "character 12: the gate ends behind its metric"),
        ("exact_match > 0.9", "character 13: '>' is not known here"),
        ("exact_match <= 0.9", "character 13: '<=' asks exact_match to be worse; higher is better, so write >="),
        ("exact_match >=", "character 15: >= which number?"),
        ("exact_match >= 90%", "character 16: '90%' is no number"),
        ("exact_match >= nan", "character 16: 'nan' is no number"),
        ("exact_match >= 90", "character 16: '90' is no exact_match: it is from 0 to 1"),
        ("exact_match >= 0.9 please", "character 20: 'please' stands behind the number"),
        ("better then x", "character 8: 'then' is not known here"),
        ("better than", "character 12: better than which model?"),
        ("exact_match better", "character 19: better than which model?"),
        ("better than my model", "character 16: 'model' stands behind the model's name"),
    ],
)
def test_what_is_no_gate_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        read_gate(text, "gates[1]", EXACT)
    assert refused.value.param == "gates[1]"
    assert refused.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("gate", "estimate", "passed", "text"),
    [
        (
            Threshold(EXACT, ">=", 0.9),
            found(0.95, 0.92, 0.97),
            True,
            "Passed: exact_match >= 0.9, with 0.950, 95 % interval 0.920 to 0.970 over 400 rows.",
        ),
        (
            Threshold(EXACT, ">=", 0.9),
            found(0.92, 0.88, 0.95),
            False,
            "Failed: exact_match >= 0.9 is not certain, with 0.920, 95 % interval 0.880 to 0.950 over 400 rows; "
            "more rows would narrow the interval.",
        ),
        (
            Threshold(EXACT, ">=", 0.9),
            found(0.8, 0.75, 0.85),
            False,
            "Failed: exact_match >= 0.9 is not reached, with 0.800, 95 % interval 0.750 to 0.850 over 400 rows.",
        ),
        (
            Threshold(NATS, "<=", 0.5),
            found(0.4, 0.3, 0.5),
            True,
            "Passed: nats_per_token <= 0.5, with 0.400, 95 % interval 0.300 to 0.500 over 400 rows.",
        ),
        (
            Threshold(EXACT, ">=", 0.0),
            found(None, rows=0, clusters=0),
            False,
            "Failed: exact_match >= 0 needs two different rows with a score, and there are 0.",
        ),
    ],
)
def test_a_threshold_is_passed_where_the_whole_interval_holds_it(
    gate: Threshold, estimate: MeanScore, passed: bool, text: str
) -> None:
    answer = answer_threshold(gate, estimate)
    assert (answer.passed, answer.text, answer.interval) == (passed, text, estimate.interval)


def test_better_than_another_model_is_what_the_verdict_says() -> None:
    rows = [float(row % 10 != 0) for row in range(300)]
    others = [float(row % 3 != 0) for row in range(300)]
    gate = BetterThan(EXACT, "theirs")
    for scores, passed in ((rows, True), (others, False)):
        compared = compare(
            EXACT, Arm(name="ours", scores_SN=[scores]), Arm(name="theirs", scores_SN=[others]), range(300)
        )
        [verdict] = judge([compared])
        answer = answer_better_than(gate, verdict)
        assert answer.passed == passed
        assert answer.text == f"{'Passed' if passed else 'Failed'}: {verdict.text}"
        assert answer.gate == "exact_match better than theirs"


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("exact_match better than bot@prod", "exact_match better than BOT@PROD"),
        ("better  than   bot@prod ", "better  than   BOT@PROD"),
        ("exact_match >= 0.9e0", "exact_match >= 0.9e0"),
        ("better than", "better than"),
        ("than", "than"),
    ],
)
def test_only_the_model_of_a_gate_is_called_otherwise(text: str, renamed: str) -> None:
    assert with_model(text, str.upper) == renamed
