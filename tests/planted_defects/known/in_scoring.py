"""Defects of how answers are scored and models compared."""

from tests.planted_defects.defect import Defect

COMPARISON = "tests/core/scoring/statistics/test_comparison.py"
LIKELIHOOD = "tests/core/scoring/test_behaviour_and_likelihood.py"
PAIRS = "tests/core/scoring/statistics/test_pairs.py"
VERDICT = "tests/core/scoring/test_verdict.py"

DEFECTS = (
    Defect(
        name="a mean of no token is 0, the best loss there is",
        in_="core.scoring.likelihood:nats_per_token",
        replace="-fmean($sample.logprobs) if $sample.logprobs else None",
        by="-fmean($sample.logprobs) if $sample.logprobs else 0.0",
        tests=(f"{LIKELIHOOD}::test_of_no_token_there_is_no_mean",),
    ),
    Defect(
        name="a mean of no row is 0",
        in_="core.scoring.statistics.pairs:Clusters.mean",
        replace="float($means) if self.count else None",
        by="float($means) if self.count else 0.0",
        tests=(f"{PAIRS}::test_of_no_row_there_is_no_mean",),
    ),
    Defect(
        name="two models are drawn apart, as if each had been asked other rows",
        in_="core.scoring.statistics.comparison:compare",
        replace="$scores.differences.mean(axis=0)",
        by="($scores.ours.sums_SC - $scores.theirs.sums_SC[:, ::-1]).mean(axis=0)",
        tests=(f"{COMPARISON}::TestPairing",),
    ),
    Defect(
        name="rows that repeat others count as further evidence",
        in_="core.scoring.statistics.pairs:_summed",
        replace="$numbers.setdefault($one, len($numbers))",
        by="$numbers.setdefault(len($numbers), len($numbers))",
        tests=(f"{COMPARISON}::TestPairing", f"{PAIRS}::test_rows_of_a_cluster_are_summed_by_their_weights"),
    ),
    Defect(
        name="a row that one model lacks a score of counts as 0",
        in_="core.scoring.statistics.pairs:_summed",
        replace="np.isfinite($scores).all(axis=(0, 1))",
        by="np.isfinite($scores := np.nan_to_num($scores)).all(axis=(0, 1))",
        tests=(f"{PAIRS}::test_a_row_that_one_model_or_one_seed_lacks_is_left_out_of_all_and_counted",),
    ),
    Defect(
        name="what was not found to differ is called the same",
        in_="core.scoring.verdict:_judge",
        replace="$margin is not None and $p_apart < 1 - LEVEL and all($within)",
        by="p_value >= 1 - LEVEL",
        tests=(
            f"{VERDICT}::test_the_same_needs_a_stated_margin_and_both_intervals_within_it",
            f"{VERDICT}::test_the_word_is_the_cases",
        ),
    ),
    Defect(
        name="several comparisons are judged as if each were the only one",
        in_="core.scoring.statistics.p_values:holm",
        replace="(len($p_values) - $rank) * $p_values[$place]",
        by="$p_values[$place]",
        tests=(f"{VERDICT}::test_comparisons_that_are_judged_together_need_more_to_be_found",),
    ),
)
