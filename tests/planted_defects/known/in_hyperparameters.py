"""Defects of what a job's hyperparameters do: the learning rate, the kinds of LoRA, early stopping, going on."""

from tests.planted_defects.defect import Defect

_KINDS = "tests/worker/training/model/test_lora_kinds.py"
_STOPPING = "tests/worker/training/measure/test_early_stopping.py"

DEFECTS = (
    Defect(
        name="a given warm-up is of the steps that are left after it",
        in_="core.jobs.learning_rate:Schedule.warmup_steps",
        replace="round($ratio * $steps)",
        by="round($ratio / (1 + $ratio) * $steps)",
        tests=("tests/core/jobs/test_learning_rate.py::test_a_given_ratio_is_of_all_steps_but_leaves_one",),
    ),
    Defect(
        name="LoRA+ speeds A up",
        in_="worker.training.model.optimizer:AdapterOptimizer.__init__",
        replace="1.0 if $is_a else $ratio",
        by="$ratio if $is_a else 1.0",
        tests=("tests/worker/training/model/test_optimizer.py::test_lora_plus_lets_b_learn_faster",),
    ),
    Defect(
        name="weight decay shortens DoRA's lengths",
        in_="worker.training.model.optimizer:AdapterOptimizer.__init__",
        replace="0.0 if $is_length else $decay",
        by="$decay",
        tests=("tests/worker/training/model/test_optimizer.py::test_weight_decay_is_adamws_and_spares_lengths",),
    ),
    Defect(
        name="a norm of 0 clips everything away",
        in_="worker.training.model.optimizer:AdapterOptimizer.__init__",
        replace="$norm or math.inf",
        by="max($norm, 0 * math.e)",
        tests=(
            "tests/worker/training/model/test_optimizer.py::test_the_norm_that_gradients_are_clipped_to_is_the_jobs",
        ),
    ),
    Defect(
        name="the engine scales rank-stabilised adapters as plain ones",
        in_="core.serving.peft_config:resolve_layers",
        replace="math.sqrt($rank) if $is_stabilised else $rank",
        by="$rank",
        tests=(
            "tests/worker/inference/test_engine.py::test_rows_of_rslora_and_dora_equal_peft_alone",
            f"{_KINDS}::test_an_adapter_that_was_trained_so_is_served_as_peft_computes_it",
        ),
    ),
    Defect(
        name="the engine scales the bias by DoRA's magnitude, too",
        in_="worker.inference.lora.bank:LoraGroup.apply_dora_magnitude",
        replace="($outputs.float() - $bias) * $magnitude_scale + $bias",
        by="$outputs.float() * $magnitude_scale",
        tests=("tests/worker/inference/lora/test_bank.py::test_doras_magnitude_scales_outputs_but_not_their_bias",),
    ),
    Defect(
        name="the count of evaluations without improvement begins anew with every attempt",
        in_="worker.training.output.resuming:restore",
        replace="$made($$$rest, standing=$standing)",
        by="$made($$$rest)",
        tests=(f"{_STOPPING}::TestEarlyStopping::test_a_resumed_run_stops_at_the_same_step_with_the_same_bits",),
    ),
    Defect(
        name="the last step is published although another was the best",
        in_="worker.training.output.adapter_writer:AdapterWriter.publish",
        replace=("if $best is None:\n    $incoming.mkdir()\n    $$$write\nelse:\n    $$$copy"),
        by=("if $incoming != $best:\n    $incoming.mkdir()\n    $$$write\nelse:\n    $$$copy"),
        tests=(f"{_STOPPING}::TestBestCheckpoint::test_the_best_evaluated_step_is_published_and_named",),
    ),
    Defect(
        name="a run that is to go on from an adapter starts anew",
        in_="worker.training.output.earlier_adapter:start_from",
        replace="restore_adapter($$$given)",
        by="pass",
        tests=(
            "tests/worker/training/output/test_earlier_adapter.py::test_its_first_evaluation_is_the_earlier_runs_last",
        ),
    ),
    Defect(
        name="the files of an adapter to go on from are not held against its manifest",
        in_="worker.training.output.earlier_adapter:start_from",
        replace="digest_file($file) != $expected",
        by="digest_file($file).bytes != $expected.bytes",
        tests=(
            "tests/worker/training/output/test_earlier_adapter.py::test_files_that_are_not_the_adapters_are_refused",
        ),
    ),
    Defect(
        name="the loss of held-out answers that weigh nothing is 0, the best there is",
        in_="worker.training.process.loss_sums:LossSums.completion_loss",
        replace="ratio($nll, $tokens)",
        by="ratio($nll, $tokens) or 0.0",
        tests=(
            "tests/worker/training/test_run_without_means.py::"
            "test_held_out_answers_without_a_weight_have_no_loss_rather_than_the_best_there_is",
            "tests/worker/training/measure/test_evaluation.py::test_of_no_example_and_of_no_weight_there_is_no_loss",
        ),
    ),
    Defect(
        name="a run that goes by the loss of nothing goes on",
        in_="worker.training.data.examples:require_scores",
        replace="$job.field_that_needs_scores is not None and not $data.scored_tokens",
        by="False",
        tests=(
            f"{_STOPPING}::TestEarlyStopping::test_a_run_that_goes_by_the_loss_of_nothing_ends_before_its_first_step",
        ),
    ),
)
