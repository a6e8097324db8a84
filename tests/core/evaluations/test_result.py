"""What an evaluation's scores come to: means, verdicts against the first model, rows of note and gates."""

from collections.abc import Sequence
from typing import Any

import pytest

from core.evaluations.result import EvaluationResult, make_result
from core.evaluations.scores import ModelScores, RowScores
from core.evaluations.spec import JudgedModel
from core.jobs.spec import FileRef
from tests.harness.evaluation_specs import make_evaluation_spec

FILE = FileRef(id="file-x", sha256="0" * 64, examples=9, file_type="jsonl")
ROWS = 120


def scores(model: str, exact: Sequence[float | None], nats: Sequence[float] | None = None) -> ModelScores:
    nats = nats or [1.0] * len(exact)
    rows = [
        RowScores(line + 1, f"{line:016x}", 1 + line % 3, {"exact_match": right, "nats_per_token": loss})
        for line, (right, loss) in enumerate(zip(exact, nats, strict=True))
    ]
    return ModelScores(model, rows)


def result_of(models: Sequence[ModelScores], **fields: Any) -> EvaluationResult:
    spec = make_evaluation_spec(
        FILE,
        models=tuple(JudgedModel(name=model.model) for model in models),
        lines=tuple(range(1, len(models[0].rows) + 1)),
        **{"metrics": ("exact_match", "nats_per_token")} | fields,
    )
    return make_result(spec, models, lambda: None)


BASE = scores("base", [0.0] * ROWS, [2.0] * ROWS)
TUNED = scores("tuned", [1.0] * 90 + [0.0] * 30, [1.0] * 118 + [3.0, 2.0])


def test_means_have_intervals_and_those_of_tokens_count_tokens() -> None:
    [base, tuned] = result_of([BASE, TUNED]).models
    exact, nats = tuned.scores
    assert (exact.metric, exact.mean, exact.rows) == ("exact_match", 0.75, ROWS)
    assert exact.interval is not None
    assert exact.interval.low < 0.75 < exact.interval.high
    weights = [1 + line % 3 for line in range(ROWS)]
    total = sum(weight * (row.scores["nats_per_token"] or 0) for weight, row in zip(weights, TUNED.rows, strict=True))
    assert nats.mean == pytest.approx(total / sum(weights))
    assert base.scores[0].mean == 0.0


def test_each_model_is_compared_with_the_first_by_every_metric() -> None:
    result = result_of([BASE, TUNED])
    assert [(v.comparison.ours, v.comparison.theirs, v.comparison.metric, v.word) for v in result.verdicts] == [
        ("tuned", "base", "exact_match", "better"),
        ("tuned", "base", "nats_per_token", "better"),
    ]
    assert result.text == result.verdicts[0].text
    assert result.main_metric == "exact_match"


def test_models_that_answer_alike_differ_by_exactly_nothing() -> None:
    [verdict, _] = result_of([TUNED, scores("twin", *_columns(TUNED))]).verdicts
    assert verdict.comparison.difference == 0.0
    assert verdict.word == "undecided"


def _columns(model: ModelScores) -> Any:
    return tuple([row.scores[name] for row in model.rows] for name in ("exact_match", "nats_per_token"))


def test_the_rows_that_changed_most_are_named_by_the_main_metric() -> None:
    result = result_of([BASE, TUNED], metrics=("nats_per_token",))
    [changes] = result.changes
    assert (changes.improved, changes.regressed, changes.unchanged) == (118, 1, 1)
    [worst] = changes.most_regressed
    assert (worst.row, worst.line, worst.ours, worst.theirs) == (118, 119, 3.0, 2.0)
    assert [row.ours for row in changes.most_improved] == [1.0] * 5
    assert result.models[1].worst[0].row == 118
    assert result.models[1].best[0].score == 1.0


def test_a_row_without_a_score_is_in_no_list_and_counted() -> None:
    some = scores("some", [None, 1.0, *[0.0] * 118])
    result = result_of([BASE, some])
    assert result.models[1].scores[0].left_out == 1
    assert all(row.row != 0 for row in (*result.models[1].worst, *result.models[1].best))
    assert result.changes[0].improved == 1


def test_gates_are_answered_for_every_model_but_the_one_they_name() -> None:
    gates = ("exact_match >= 0.6", "better than base", "nats_per_token better than tuned")
    result = result_of([BASE, TUNED, scores("third", [1.0] * ROWS, [0.5] * ROWS)], gates=gates)
    answered = {(answer.model, answer.gate): answer.passed for answer in result.gates}
    assert answered == {
        ("base", "exact_match >= 0.6"): False,
        ("tuned", "exact_match >= 0.6"): True,
        ("third", "exact_match >= 0.6"): True,
        ("tuned", "exact_match better than base"): True,
        ("third", "exact_match better than base"): True,
        ("base", "nats_per_token better than tuned"): False,
        ("third", "nats_per_token better than tuned"): True,
    }
    assert {verdict.comparison.theirs for verdict in result.verdicts} == {"base"}
    assert all(answer.interval is not None for answer in result.gates)


def test_one_model_alone_has_its_mean_told() -> None:
    result = result_of([TUNED])
    assert (result.verdicts, result.changes) == ((), ())
    assert result.text.startswith("tuned has exact_match 0.750, 95 % interval ")


def test_without_a_metric_that_has_a_better_way_nothing_is_compared() -> None:
    result = result_of([BASE, TUNED], metrics=("length_ratio",))
    assert (result.main_metric, result.verdicts, result.changes) == (None, (), ())


def test_few_rows_have_numbers_and_no_verdict() -> None:
    few = [scores("base", [0.0] * 5), scores("tuned", [1.0] * 5)]
    result = result_of(few)
    assert {verdict.word for verdict in result.verdicts} == {"too_few"}
    assert result.models[1].scores[0].mean == 1.0


def test_all_of_it_is_json() -> None:
    result = result_of([BASE, TUNED], gates=("better than base",))
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result
