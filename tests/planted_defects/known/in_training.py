"""Defects of how ids and weights become batches, a loss and an adapter, and of the engine that answers by it."""

from tests.planted_defects.defect import Defect

TRAPS = "tests/worker/training/traps/test_traps.py"

DEFECTS = (
    Defect(
        name="04 the trainer masks the closing token, as where padding has its id",
        in_="worker.training.data.batches:collate",
        replace="$scored = [np.flatnonzero($one) for $one in $weights]",
        by=(
            "$scored = [np.flatnonzero(w * (e.ids_T != 256)) for w, e in zip($weights, examples)]\n"
            "$weights = [w * (e.ids_T != 256) for w, e in zip($weights, examples)]"
        ),
        tests=(
            f"{TRAPS}::test_trap_04_after_overfitting_eight_examples_every_answer_stops_by_itself",
            f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_a_target",
        ),
    ),
    Defect(
        name="05 targets with the padding's id are dropped",
        in_="worker.training.data.batches:collate",
        replace="[np.flatnonzero($one) for $one in $weights]",
        by="[np.flatnonzero(w * (e.ids_T != PADDING_ID)) for w, e in zip($weights, examples)]",
        tests=(f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_a_target",),
    ),
    Defect(
        name="05 inputs with the padding's id are hidden",
        in_="worker.training.model.decoder:OwnPass.run",
        replace="_embed($decoder, $batch, $noise_NH)",
        by="_embed($decoder, $batch, $noise_NH) * ($batch.input_ids_N != 0)[:, None]",
        tests=(f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_attended_to",),
    ),
    Defect(
        name="07 an example without weights is trained on",
        in_="core.text.partition:part_of",
        replace="not $fitted.trained_tokens",
        by="False",
        tests=(f"{TRAPS}::TestTrap07::test_trap_07_an_example_without_weights_is_left_out_and_named",),
    ),
    Defect(
        name="07 the mean of an empty micro-batch is 0/0",
        in_="worker.training.model.loss:_WeightedNll.forward",
        replace="($nll_K * $scale_K).sum()",
        by="($nll_K * $scale_K).sum() / ($scale_K > 0).sum() * ($scale_K > 0).sum()",
        tests=(f"{TRAPS}::TestTrap07::test_trap_07_an_empty_micro_batch_adds_a_zero_that_has_a_gradient",),
    ),
    Defect(
        name="07 a loss that is no number is passed over",
        in_="worker.training.loop:TrainingLoop._require_finite",
        replace="math.isfinite($loss) and math.isfinite($grad_norm)",
        by="True",
        tests=(f"{TRAPS}::TestTrap07::test_trap_07_a_loss_that_is_no_number_fails_the_job_with_its_lines",),
    ),
    Defect(
        name="08 targets are shifted twice",
        in_="worker.training.data.batches:collate",
        replace="$example.ids_T[$at].astype(np.int64)",
        by="np.append($example.ids_T[1:], 0)[$at].astype(np.int64)",
        tests=(f"{TRAPS}::TestTrap08::test_trap_08_targets_are_shifted_once",),
    ),
    Defect(
        name="08 targets are not shifted",
        in_="worker.training.data.batches:collate",
        replace="$begin + $indices - 1",
        by="$begin + $indices.clip(max=$indices[-1] - 1)",
        tests=(f"{TRAPS}::TestTrap08::test_trap_08_targets_are_shifted_once",),
    ),
    Defect(
        name="09 labels are laid out beside the prompt",
        in_="worker.training.data.batches:collate",
        replace="$begin + $indices - 1",
        by="$begin + np.arange(len($indices))",
        tests=(f"{TRAPS}::TestTrap09::test_trap_09_labels_laid_out_beside_the_prompt_are_refused",),
    ),
    Defect(
        name="09 the check of labels passes everything",
        in_="worker.training.data.label_check:require_labels",
        replace=("if $wrong:\n    raise LabelsMismatch($$$said)"),
        by=("if False:\n    raise LabelsMismatch($$$said)"),
        tests=(f"{TRAPS}::TestTrap09::test_trap_09_labels_laid_out_beside_the_prompt_are_refused",),
    ),
    Defect(
        name="09 the trainer does not check labels",
        in_="worker.training.step:GradientAccumulator._shares",
        replace="require_labels($$$given)",
        by="pass",
        tests=(f"{TRAPS}::TestTrap09::test_trap_09_a_run_with_such_labels_fails_before_it_learns",),
    ),
    Defect(
        name="13 the embedding is cut to the tokenizer's size",
        in_="worker.models.loading:load_base_model",
        replace="$model = load_causal_model($$$rest)",
        by="$model = load_causal_model($$$rest)\n$model.resize_token_embeddings(tokenizer.vocab_size)",
        tests=(f"{TRAPS}::test_trap_13_the_vocabulary_keeps_its_rows",),
    ),
    Defect(
        name="13 ids that no token has can be generated",
        in_="worker.inference.model.runner:ModelRunner.forward",
        replace="$logits[:, : self._vocab_size].float()",
        by="$logits.float()",
        tests=("tests/worker/inference/test_engine.py::test_ids_beyond_the_tokenizers_vocabulary_are_never_chosen",),
    ),
    Defect(
        name="14 the closing token is the embedding's padding",
        in_="worker.models.loading:read_model_config",
        replace="$config.pad_token_id = None",
        by="$config.pad_token_id = $config.eos_token_id",
        tests=(f"{TRAPS}::test_trap_14_the_closing_tokens_row_is_a_row_like_the_others",),
    ),
    Defect(
        name="15 the loss forgets the head's bias",
        in_="worker.training.model.loss:_logits",
        replace="nn.functional.linear($hidden_KH, $weight_VH, $bias_V)",
        by="nn.functional.linear($hidden_KH, $weight_VH)",
        tests=(
            f"{TRAPS}::TestTrap15::test_trap_15_a_heads_bias_counts",
            f"{TRAPS}::TestTrap15::test_trap_15_the_loss_is_that_of_the_models_own_logits",
        ),
    ),
    Defect(
        name="30 the default target modules are a library's, without k_proj and dense",
        in_="core.base_models.shape:resolve_targets",
        replace=("if $wanted is None:\n    return tuple($parts)"),
        by=('if $wanted is None:\n    return tuple(part for part in $parts if part not in ("k_proj", "dense"))'),
        tests=(f"{TRAPS}::TestTrap30::test_trap_30_every_linear_layer_but_the_head_is_adapted",),
    ),
    Defect(
        name="30 the head is adapted too",
        in_="worker.training.model.lora:_linear_names",
        replace="isinstance($module, nn.Linear) and $module is not $head",
        by="isinstance($module, nn.Linear)",
        tests=(f"{TRAPS}::TestTrap30",),
    ),
    Defect(
        name="30 a name that matches nothing is ignored",
        in_="core.base_models.shape:resolve_targets",
        replace=("if $unmatched:\n    raise $error"),
        by=("if False:\n    raise $error"),
        tests=(f"{TRAPS}::TestTrap30::test_trap_30_a_name_that_matches_nothing_is_refused",),
    ),
    Defect(
        name="each micro-batch is divided by its own weight: a mean of means",
        in_="worker.training.model.loss:weighted_losses",
        replace="$batch.weights_K / $total_weight",
        by="$batch.weights_K / $batch.weights_K.sum()",
        tests=(
            "tests/worker/training/model/test_loss.py::test_a_step_is_normalised_by_its_own_weight_however_it_is_cut",
        ),
    ),
    Defect(
        name="weights above 0 count as 1",
        in_="worker.training.data.batches:collate",
        replace="[$weights_T[$at] for $weights_T, $at in $pairs]",
        by="[np.ceil($weights_T[$at]) for $weights_T, $at in $pairs]",
        tests=("tests/worker/training/model/test_objective.py",),
    ),
    Defect(
        name="a prompt with a weight counts as completion, so held-out examples are scored on it",
        in_="worker.training.data.examples:GrowingSet.add",
        replace="$segment.reason in ANSWER and $segment.weight > 0",
        by="$segment.weight > 0",
        tests=(
            "tests/worker/training/data/test_examples.py::TestWeights",
            "tests/worker/training/model/test_loss.py::TestWeightedLoss::test_completion_loss_does_not_depend_on_the_prompts_weight",
        ),
    ),
    Defect(
        name="the base model's own dropout stays on",
        in_="worker.models.loading:load_causal_model",
        replace="_disable_dropout($model)",
        by="pass",
        tests=(
            "tests/worker/training/model/test_lora.py::TestStart::test_the_bases_own_dropout_is_off_while_training",
        ),
    ),
    Defect(
        name="a sample counts as exact though the model would have gone on",
        in_="worker.training.measure.generation_eval:GenerationEvaluator._compare",
        replace="$is_stopped and tuple($got) == $expected",
        by="tuple($got) == $expected",
        tests=(
            "tests/worker/training/measure/test_generation_eval.py::TestComparison"
            "::test_exact_is_the_completion_itself_and_nothing_behind_it",
        ),
    ),
    Defect(
        name="a resumed run's result file begins where it was resumed",
        in_="worker.training.run:PreparedRun._resume",
        replace="ResultRows.read($file)",
        by="ResultRows()",
        tests=(
            "tests/worker/training/measure/test_result_file.py::test_a_resumed_runs_file_is_the_undisturbed_runs_to_the_byte",
        ),
    ),
)
