"""Defects of how ids and weights become batches, a loss and an adapter, and of the engine that answers by it."""

from tests.planted_defects.defect import Defect

TRAPS = "tests/worker/training/test_traps.py"

DEFECTS = (
    Defect(
        "04 the trainer masks the closing token, as where padding has its id",
        "worker/training/data/batches.py",
        "    scored = [np.flatnonzero(weights_T) for weights_T in weights]\n",
        "    scored = [np.flatnonzero(w * (e.ids_T != 256)) for w, e in zip(weights, examples)]\n"
        "    weights = [w * (e.ids_T != 256) for w, e in zip(weights, examples)]\n",
        (
            f"{TRAPS}::test_trap_04_after_overfitting_eight_examples_every_answer_stops_by_itself",
            f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_a_target",
        ),
    ),
    Defect(
        "05 targets with the padding's id are dropped",
        "worker/training/data/batches.py",
        "    scored = [np.flatnonzero(weights_T) for weights_T in weights]\n",
        "    scored = [np.flatnonzero(w * (e.ids_T != PADDING_ID)) for w, e in zip(weights, examples)]\n",
        (f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_a_target",),
    ),
    Defect(
        "05 inputs with the padding's id are hidden",
        "worker/training/model/decoder.py",
        "        states = _embed(self._decoder, batch, noise_NH)\n",
        "        states = _embed(self._decoder, batch, noise_NH) * (batch.input_ids_N != 0)[:, None]\n",
        (f"{TRAPS}::TestTrap05::test_trap_05_an_id_that_padding_uses_stays_attended_to",),
    ),
    Defect(
        "07 an example without weights is trained on",
        "worker/training/data/examples.py",
        "elif not fitted.trained_tokens:",
        "elif False:",
        (f"{TRAPS}::TestTrap07::test_trap_07_an_example_without_weights_is_left_out_and_named",),
    ),
    Defect(
        "07 the mean of an empty micro-batch is 0/0",
        "worker/training/model/loss.py",
        "        return (nll_K * scale_K).sum(), nll_K, hit_K\n",
        "        return (nll_K * scale_K).sum() / (scale_K > 0).sum() * (scale_K > 0).sum(), nll_K, hit_K\n",
        (f"{TRAPS}::TestTrap07::test_trap_07_an_empty_micro_batch_adds_a_zero_that_has_a_gradient",),
    ),
    Defect(
        "07 a loss that is no number is passed over",
        "worker/training/loop.py",
        "        if math.isfinite(loss) and math.isfinite(grad_norm):\n",
        "        if True:\n",
        (f"{TRAPS}::TestTrap07::test_trap_07_a_loss_that_is_no_number_fails_the_job_with_its_lines",),
    ),
    Defect(
        "08 targets are shifted twice",
        "worker/training/data/batches.py",
        "flat([example.ids_T[at].astype(np.int64)",
        "flat([np.append(example.ids_T[1:], 0)[at].astype(np.int64)",
        (f"{TRAPS}::TestTrap08::test_trap_08_targets_are_shifted_once",),
    ),
    Defect(
        "08 targets are not shifted",
        "worker/training/data/batches.py",
        "flat([begin + indices - 1 for",
        "flat([begin + indices.clip(max=indices[-1] - 1) for",
        (f"{TRAPS}::TestTrap08::test_trap_08_targets_are_shifted_once",),
    ),
    Defect(
        "09 labels are laid out beside the prompt",
        "worker/training/data/batches.py",
        "flat([begin + indices - 1 for",
        "flat([begin + np.arange(len(indices)) for",
        (f"{TRAPS}::TestTrap09::test_trap_09_labels_laid_out_beside_the_prompt_are_refused",),
    ),
    Defect(
        "09 the check of labels passes everything",
        "worker/training/data/label_check.py",
        "    if wrong:\n",
        "    if False:\n",
        (f"{TRAPS}::TestTrap09::test_trap_09_labels_laid_out_beside_the_prompt_are_refused",),
    ),
    Defect(
        "09 the trainer does not check labels",
        "worker/training/step.py",
        "                require_labels(",
        "                (lambda *_: None)(",
        (f"{TRAPS}::TestTrap09::test_trap_09_a_run_with_such_labels_fails_before_it_learns",),
    ),
    Defect(
        "13 the embedding is cut to the tokenizer's size",
        "worker/models/loading.py",
        "    model.requires_grad_(False)\n",
        "    model.resize_token_embeddings(tokenizer.vocab_size)\n    model.requires_grad_(False)\n",
        (f"{TRAPS}::test_trap_13_the_vocabulary_keeps_its_rows",),
    ),
    Defect(
        "13 ids that no token has can be generated",
        "worker/inference/model/runner.py",
        "[:, : self._vocab_size].float()",
        ".float()",
        ("tests/worker/inference/test_engine.py::test_ids_beyond_the_tokenizers_vocabulary_are_never_chosen",),
    ),
    Defect(
        "14 the closing token is the embedding's padding",
        "worker/models/loading.py",
        "    config.pad_token_id = None\n",
        "    config.pad_token_id = config.eos_token_id\n",
        (f"{TRAPS}::test_trap_14_the_closing_tokens_row_is_a_row_like_the_others",),
    ),
    Defect(
        "15 the loss forgets the head's bias",
        "worker/training/model/loss.py",
        "logits_CV = nn.functional.linear(hidden_KH[rows], weight_VH, bias_V)",
        "logits_CV = nn.functional.linear(hidden_KH[rows], weight_VH)",
        (
            f"{TRAPS}::TestTrap15::test_trap_15_a_heads_bias_counts",
            f"{TRAPS}::TestTrap15::test_trap_15_the_loss_is_that_of_the_models_own_logits",
        ),
    ),
    Defect(
        "30 the default target modules are a library's, without k_proj and dense",
        "core/base_models/shape.py",
        "        return tuple(last_parts)\n",
        '        return tuple(part for part in last_parts if part not in ("k_proj", "dense"))\n',
        (f"{TRAPS}::TestTrap30::test_trap_30_every_linear_layer_but_the_head_is_adapted",),
    ),
    Defect(
        "30 the head is adapted too",
        "worker/training/model/lora.py",
        "isinstance(module, nn.Linear) and module is not head]",
        "isinstance(module, nn.Linear)]",
        (f"{TRAPS}::TestTrap30",),
    ),
    Defect(
        "30 a name that matches nothing is ignored",
        "core/base_models/shape.py",
        "    if unmatched:\n",
        "    if False:\n",
        (f"{TRAPS}::TestTrap30::test_trap_30_a_name_that_matches_nothing_is_refused",),
    ),
    Defect(
        "each micro-batch is divided by its own weight: a mean of means",
        "worker/training/model/loss.py",
        "    scale_K = batch.weights_K / total_weight\n",
        "    scale_K = batch.weights_K / batch.weights_K.sum()\n",
        ("tests/worker/training/model/test_loss.py::test_a_step_is_normalised_by_its_own_weight_however_it_is_cut",),
    ),
    Defect(
        "weights above 0 count as 1",
        "worker/training/data/batches.py",
        "        weights_K=flat([weights_T[at] for",
        "        weights_K=flat([np.ceil(weights_T[at]) for",
        ("tests/worker/training/model/test_objective.py",),
    ),
    Defect(
        "a prompt with a weight counts as completion, so held-out examples are scored on it",
        "worker/training/data/examples.py",
        "is_completion = segment.reason in ANSWER and segment.weight > 0",
        "is_completion = segment.weight > 0",
        (
            "tests/worker/training/data/test_examples.py::TestWeights",
            "tests/worker/training/model/test_loss.py::TestWeightedLoss::test_completion_loss_does_not_depend_on_the_prompts_weight",
        ),
    ),
    Defect(
        "the base model's own dropout stays on",
        "worker/models/loading.py",
        "    _turn_dropout_off(model)\n",
        "",
        ("tests/worker/training/model/test_lora.py::TestStart::test_the_bases_own_dropout_is_off_while_training",),
    ),
    Defect(
        "a sample counts as exact though the model would have gone on",
        "worker/training/measure/samples.py",
        "exact=stopped and tuple(got) ==",
        "exact=tuple(got) ==",
        (
            "tests/worker/training/measure/test_samples.py::TestComparison"
            "::test_exact_is_the_completion_itself_and_nothing_behind_it",
        ),
    ),
    Defect(
        "a resumed run's result file begins where it was resumed",
        "worker/training/run.py",
        "ResultRows.read(checkpoint.folder / RESULTS)",
        "ResultRows()",
        (
            "tests/worker/training/measure/test_result_file.py::test_a_resumed_runs_file_is_the_undisturbed_runs_to_the_byte",
        ),
    ),
)
