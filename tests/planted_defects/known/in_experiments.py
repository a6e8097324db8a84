"""Defects of how an experiment's rows are parted, and of what it goes on by."""

from tests.planted_defects.defect import Defect

ADVANCING = "tests/core/store/experiments/test_advancing.py"
PARTS = "tests/core/experiments/test_parts.py"
ROUTES = "tests/app/experiments/test_routes.py"

DEFECTS = (
    Defect(
        name="arms are trained on the rows that they are judged by",
        in_="app.experiments.part_files:make_parts",
        replace="$made.get(RowPart.TRAIN, $sources.training.id)",
        by="$sources.training.id",
        tests=(f"{ROUTES}::test_without_a_file_to_be_judged_by_it_is_the_tenth_that_any_job_holds_out",),
    ),
    Defect(
        name="a file to be judged by may hold what is trained on",
        in_="core.experiments.parts:refuse_overlap",
        replace="[$row for $row in $judged if $row.prompt in $lines]",
        by="[$row for $row in $judged if not $lines]",
        tests=(f"{PARTS}::test_rows_to_be_judged_by_that_are_trained_on_are_refused_with_their_lines",),
    ),
    Defect(
        name="what chooses a rate or an arm also judges it",
        in_="app.experiments.part_files:make_parts",
        replace="split($prompts, judges=$judges, chooses=$chooses)",
        by="split($prompts, judges=$judges, chooses=False)",
        tests=(f"{ROUTES}::test_what_chooses_has_rows_of_its_own",),
    ),
    Defect(
        name="a rate is chosen by the loss on what was trained",
        in_="core.store.experiments.advancing:_outcome",
        replace='$metrics.get("full_valid_loss")',
        by='$metrics.get("train_loss")',
        tests=(f"{ADVANCING}::test_a_run_is_known_by_its_loss_on_what_it_did_not_train_on",),
    ),
    Defect(
        name="arms are pruned by the rows that verdicts go by",
        in_="core.store.experiments.advancing:_take",
        replace="evaluate($session, $record, $plan.choosing, $models, $now, base=False)",
        by="evaluate($session, $record, $plan.judging, $models, $now, base=False)",
        tests=(f"{ADVANCING}::test_arms_that_are_far_from_the_best_are_not_trained_again",),
    ),
    Defect(
        name="a step is taken by all who decided it at once",
        in_="core.store.experiments.advancing:_take",
        replace="ExperimentRecord.version == $seen.record.version",
        by="ExperimentRecord.version >= $seen.record.version",
        tests=(f"{ADVANCING}::test_a_step_that_was_decided_by_what_is_no_more_is_not_taken",),
    ),
)
