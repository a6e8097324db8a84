"""Defects of what models are asked in an evaluation, and of what is made of their answers."""

from tests.planted_defects.defect import Defect

REFUSALS = "tests/app/evaluations/test_refusals.py"
RUNNER = "tests/worker/evaluating/test_runner.py"
STORE = "tests/core/store/test_evaluations.py"
ROWS = "tests/core/evaluations/test_rows.py"

DEFECTS = (
    Defect(
        name="a model is judged by rows that it was trained on",
        in_="core.evaluations.learnt:require_unlearnt",
        replace="int($row.cluster, 16) in $known.prompts",
        by="False",
        tests=(f"{REFUSALS}::TestRefused::test_are_rows_that_a_model_was_trained_on",),
    ),
    Defect(
        name="what an earlier adapter was trained on counts as unseen",
        in_="core.evaluations.learnt:_find_learnt",
        replace="None if $spec.continue_from is None else $spec.continue_from.name",
        by="None",
        tests=(f"{REFUSALS}::TestRefused::test_are_rows_that_an_earlier_adapter_of_a_model_was_trained_on",),
    ),
    Defect(
        name="the first rows of a file stand for all of it",
        in_="core.evaluations.rows:choose_lines",
        replace="sorted($hashes)[:$most]",
        by="sorted($hashes, key=lambda row: row[1])[:$most]",
        tests=(f"{ROWS}::test_rows_are_chosen_by_their_hashes_and_given_in_the_files_order",),
    ),
    Defect(
        name="an engine with another base model of the name is asked",
        in_="worker.evaluating.asking:RowAsker._know",
        replace="$info.fingerprint != $pinned",
        by="False",
        tests=(f"{RUNNER}::test_an_engine_with_another_base_model_of_the_name_is_not_asked",),
    ),
    Defect(
        name="rows that are scored already are asked again",
        in_="worker.evaluating.runner:EvaluationAttempt._list_open",
        replace="($each.model_index, $each.number) not in $scored",
        by="True",
        tests=(f"{RUNNER}::test_the_next_attempt_asks_only_for_what_is_not_scored",),
    ),
    Defect(
        name="trainings and evaluations wait for each other",
        in_="core.store.queue.claims:_claim_oldest",
        replace="JobRecord.kind == $kind",
        by="JobRecord.id != ''",
        tests=(f"{STORE}::TestLines::test_of_the_kinds_are_apart",),
    ),
)
