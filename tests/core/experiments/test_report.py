"""What an experiment's report says."""

from xml.etree import ElementTree

import pytest

from core.experiments.forest_plot import forest_plot
from core.experiments.plan import PlannedRun, notes_on, notes_on_rows
from core.experiments.pruning import prune
from core.experiments.report import ExperimentReport, make_report
from core.experiments.report_csv import scores_csv, summary_csv
from core.experiments.scores import RunScores, ScoreTable
from core.jobs.spec import AdapterRef, LoraSpec
from core.scoring.statistics.bootstrap import Interval
from tests.core.experiments.made_up import ROWS, arm, evaluation, plan, scores
from tests.harness.job_specs import make_estimate

MEANS = {"w = 0": 0.2, "w = 0.1": 0.2, "w = 1": 0.6, "base": 2.0}


def report(means: dict[str, float] = MEANS, rows: int = ROWS) -> ExperimentReport:
    made = plan()
    return make_report(made, scores(made, means, rows=rows), {}, ["A note."], [], {"question": "labels"})


def test_each_arm_is_held_against_the_first_on_the_metric_that_was_declared() -> None:
    found = report()
    assert [(one.comparison.ours, one.comparison.theirs, one.word) for one in found.equal_rates.verdicts] == [
        ("w = 0.1", "w = 0", "undecided"),
        ("w = 1", "w = 0", "worse"),
        ("base", "w = 0", "worse"),
    ]
    assert {one.comparison.metric for one in found.equal_rates.verdicts} == {"nats_per_token"}
    assert found.equal_rates.paragraph == " ".join(one.text for one in found.equal_rates.verdicts)
    assert "w = 1 is worse than w = 0 on nats_per_token" in found.equal_rates.paragraph
    assert "over 3 seeds" in found.equal_rates.paragraph
    assert "significant" not in found.equal_rates.paragraph
    assert "*" not in found.equal_rates.paragraph
    assert (found.tuned, found.too_few, found.rerun) == (None, False, {"question": "labels"})


def test_other_metrics_are_shown_without_a_word() -> None:
    nats, exact, ratio = report().equal_rates.metrics
    assert (nats.decides, exact.decides, ratio.decides) == (True, False, False)
    assert [one.ours for one in exact.comparisons] == ["w = 0.1", "w = 1", "base"]
    assert ratio.arms[0].mean.left_out == 1


def test_a_mean_has_an_interval_over_rows_and_one_over_seeds_but_the_base_model_only_the_first() -> None:
    first, *_, base = report().equal_rates.metrics[0].arms
    assert first.seeds == (1, 2, 3)
    assert first.over_seeds is not None
    assert first.mean.interval is not None
    assert first.mean.mean == pytest.approx(sum(one or 0.0 for one in first.seed_means) / 3)
    assert (base.arm, base.seeds, base.learning_rate, base.over_seeds) == ("base", (), None, None)


def test_no_mean_is_said_to_lie_where_no_score_can_be() -> None:
    made = plan(("a",), base=False, seeds=(1, 2))
    runs = [PlannedRun(arm=0, seed=seed) for seed in made.seeds]
    models = [
        RunScores(run, {"nats_per_token": [nats] * 4, "exact_match": [right] * 4, "length_ratio": [None] * 4})
        for run, nats, right in zip(runs, (0.1, 0.3), (0.7, 0.9), strict=True)
    ]
    table = ScoreTable(lines_N=range(1, 5), clusters_N=list("abcd"), tokens_N=[1] * 4, models=models)
    nats, exact, _ = make_report(made, table, {}, [], [], {}).equal_rates.metrics
    assert nats.arms[0].over_seeds is not None
    assert nats.arms[0].over_seeds.low == 0 < nats.arms[0].over_seeds.high
    assert exact.arms[0].over_seeds == Interval(low=0, high=1)


def test_arms_that_are_wholly_identical_differ_by_exactly_0() -> None:
    made = plan(("a", "b"), base=False)
    one = scores(plan(("a",)), {"a": 0.4})
    models = [
        RunScores(PlannedRun(arm=place, seed=model.run.seed), model.scores)
        for place in (0, 1)
        for model in one.models
        if model.run is not None
    ]
    table = ScoreTable(one.lines_N, one.clusters_N, one.tokens_N, models)
    found = make_report(made, table, {}, [], [], {})
    for metric in found.equal_rates.metrics:
        assert [comparison.difference for comparison in metric.comparisons] == [0.0]
    [verdict] = found.equal_rates.verdicts
    assert verdict.word == "undecided"
    assert verdict.comparison.over_seeds is not None
    assert verdict.comparison.over_seeds.interval == Interval(low=0, high=0)


def test_below_a_hundred_different_rows_there_are_numbers_and_no_verdict() -> None:
    found = report(rows=60)
    assert found.too_few
    assert {one.word for one in found.equal_rates.verdicts} == {"too_few"}
    assert found.equal_rates.metrics[0].comparisons[0].difference is not None


def test_arms_are_compared_by_the_seeds_that_both_have() -> None:
    made = plan(("a", "b"), base=False)
    both, one = scores(made, {"a": 0.2}), scores(made, {"b": 0.4}, seeds=(2,))
    table = ScoreTable(both.lines_N, both.clusters_N, both.tokens_N, [*both.models, *one.models])
    [verdict] = make_report(made, table, {}, [], [], {}).equal_rates.verdicts
    assert verdict.comparison.seeds == 1
    assert "in this one run" in verdict.text


def test_an_arm_without_scores_is_left_out_and_the_next_one_is_the_first() -> None:
    found = report({"w = 0.1": 0.2, "w = 1": 0.6})
    assert [(one.comparison.ours, one.comparison.theirs) for one in found.equal_rates.verdicts] == [
        ("w = 1", "w = 0.1")
    ]


def test_with_tuned_rates_both_comparisons_are_shown() -> None:
    made = plan(tunes=True)
    table = scores(made, MEANS, factors=(1 / 3, 1.0))
    found = make_report(made, table, {0: 1.0, 1: 1.0, 2: 1 / 3}, [], [], {})
    assert found.tuned is not None
    rates = [one.learning_rate for one in found.tuned.metrics[0].arms]
    assert rates == [1e-3, 1e-3, pytest.approx(1e-3 / 3), None]
    equal, tuned = (part.verdicts[1].comparison.our_mean for part in (found.equal_rates, found.tuned))
    assert equal is not None
    assert tuned == pytest.approx(equal - 0.05, abs=0.01)
    assert make_report(made, table, {0: 1.0, 1: 1.0, 2: 1.0}, [], [], {}).tuned is None


def test_arms_far_from_the_best_are_pruned_by_name() -> None:
    made = plan()
    [pruned] = prune(made, scores(made, MEANS, seeds=(1,)))
    assert pruned.arm == 2
    assert pruned.text.startswith("w = 1 was pruned after one seed: ")
    assert prune(made, scores(made, {"w = 0": 0.2, "w = 0.1": 0.21}, seeds=(1,))) == ()
    right = plan(primary_metric="exact_match")
    assert [one.arm for one in prune(right, scores(right, MEANS, seeds=(1,)))] == [2]


class TestCsv:
    def test_the_summary_has_a_line_for_each_metric_and_arm(self) -> None:
        header, *lines = summary_csv(report()).splitlines()
        assert header.startswith("rates,metric,arm,learning_rate,mean,low,high")
        assert len(lines) == 3 * 4
        assert lines[2].startswith("equal,nats_per_token,w = 1,0.001,")
        assert lines[2].endswith(",worse")
        assert lines[0].endswith(",,,,,,")  # nothing to compare the first with

    def test_the_scores_have_a_line_for_each_row_and_an_empty_cell_where_there_is_none(self) -> None:
        made = plan(("=1+1",))
        text = scores_csv(made, scores(made, {"=1+1": 0.2, "base": 1.0}, rows=2))
        header, *lines = text.splitlines()
        assert header == "arm,learning_rate,seed,line,prompt,metric,score"
        assert len(lines) == (3 + 1) * 2 * 3
        assert lines[4] == "'=1+1,0.001,1,1,0000000000000000,length_ratio,"
        assert lines[-1] == "base,,,2,0000000000000001,length_ratio,1.0"


class TestForestPlot:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_it_is_a_picture_that_is_whole_by_itself(self, theme: str) -> None:
        drawn = forest_plot(report().equal_rates, "nats_per_token", "dark" if theme == "dark" else "light")
        root = ElementTree.fromstring(drawn)
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert names <= {"svg", "title", "desc", "rect", "text", "line", "circle"}
        assert not any("href" in name or name.startswith("on") for element in root.iter() for name in element.attrib)
        texts = [element.text for element in root.iter() if element.text]
        assert "nats_per_token: difference from w = 0; less is better" in texts
        assert {"w = 0.1", "w = 1", "base", "worse", "cannot be told apart"} <= set(texts)

    def test_light_and_dark_differ_in_colours_alone(self) -> None:
        compared = report().equal_rates
        light, dark = (
            ElementTree.fromstring(forest_plot(compared, "exact_match", theme)) for theme in ("light", "dark")
        )
        pairs = list(zip(light.iter(), dark.iter(), strict=True))
        assert any(one.attrib != other.attrib for one, other in pairs)
        for one, other in pairs:
            assert (one.tag, one.text) == (other.tag, other.text)
            for name in one.attrib.keys() - {"fill", "stroke"}:
                assert one.get(name) == other.get(name)

    def test_names_are_text_and_nothing_else(self) -> None:
        made = plan(("a", "<script>&"), base=False)
        found = make_report(made, scores(made, {"a": 0.2, "<script>&": 0.3}), {}, [], [], {})
        drawn = forest_plot(found.equal_rates, "nats_per_token", "light")
        assert "<script" not in drawn
        ElementTree.fromstring(drawn)

    def test_all_that_is_drawn_lies_within_it(self) -> None:
        made = plan(("a", "b"), base=False, margin=5.0)
        found = make_report(made, scores(made, {"a": 0.2, "b": 0.3}), {}, [], [], {})
        for element in ElementTree.fromstring(forest_plot(found.equal_rates, "nats_per_token", "light")).iter():
            for name in ("x1", "x2", "cx"):
                if element.get(name) is not None:
                    assert 0 <= float(element.get(name, "")) <= 760

    def test_a_metric_that_is_not_there_is_no_picture(self) -> None:
        with pytest.raises(ValueError, match="no chrf"):
            forest_plot(report().equal_rates, "chrf", "light")


def test_arms_that_do_not_see_the_same_are_named() -> None:
    assert notes_on([arm("a"), arm("b")]) == ()
    earlier = AdapterRef(name="ft:earlier", adapter_sha256="a" * 64)
    for other in ({"lora": LoraSpec(rank=4)}, {"lora": LoraSpec(use_dora=True)}, {"continue_from": earlier}):
        [note] = notes_on([arm("a"), arm("b", **other)])
        assert "do not start from the same weights" in note


def test_an_adapter_that_only_counts_for_more_starts_from_the_same_weights() -> None:
    scaled = LoraSpec(alpha=64.0, use_rslora=True, dropout=0.1)
    assert notes_on([arm("a"), arm("b", lora=scaled)]) == ()


def test_steps_that_are_only_estimated_are_compared_as_such() -> None:
    assert notes_on([arm("a", make_estimate(steps=100)), arm("b", make_estimate(steps=100))]) == ()
    [note] = notes_on([arm("a", make_estimate(steps=100)), arm("b", make_estimate(steps=1200))])
    assert note == "The arms do not train on the same number of steps: a 100, b 1,200."
    [note] = notes_on(
        [arm("a", make_estimate(steps=100, sampled=True)), arm("b", make_estimate(steps=1200, sampled=True))]
    )
    assert note == "The arms do not train on the same number of steps: a about 100, b about 1,200."


def test_rows_that_are_not_asked_and_models_of_unknown_training_are_named() -> None:
    judging = evaluation("file-judge")
    assert notes_on_rows(judging) == ()
    too_long, unchecked = notes_on_rows(judging.model_copy(update={"too_long": 3, "unchecked_models": ("ft:x",)}))
    assert too_long.startswith("3 rows to be judged by are left out")
    assert unchecked.startswith("What ft:x was trained on is not known any more")
