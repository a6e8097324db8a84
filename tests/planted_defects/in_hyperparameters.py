"""Defects of what a job's hyperparameters do: the learning rate, the kinds of LoRA, early stopping, going on."""

from tests.planted_defects.defect import Defect

_KINDS = "tests/worker/training/model/test_lora_kinds.py"
_STOPPING = "tests/worker/training/measure/test_early_stopping.py"

DEFECTS = (
    Defect(
        "a given warm-up is of the steps that are left after it",
        "core/jobs/learning_rate.py",
        "round(self.warmup_ratio * self.total_steps)",
        "round(self.warmup_ratio / (1 + self.warmup_ratio) * self.total_steps)",
        ("tests/core/jobs/test_learning_rate.py::test_a_given_ratio_is_of_all_steps_but_leaves_one",),
    ),
    Defect(
        "LoRA+ speeds A up",
        "worker/training/model/optimizer.py",
        "1.0 if is_a else job.loraplus_lr_ratio",
        "job.loraplus_lr_ratio if is_a else 1.0",
        ("tests/worker/training/model/test_optimizer.py::test_lora_plus_lets_b_learn_faster",),
    ),
    Defect(
        "weight decay shortens DoRA's lengths",
        "worker/training/model/optimizer.py",
        "0.0 if is_length else job.weight_decay",
        "job.weight_decay",
        ("tests/worker/training/model/test_optimizer.py::test_weight_decay_is_adamws_and_spares_lengths",),
    ),
    Defect(
        "a norm of 0 clips everything away",
        "worker/training/model/optimizer.py",
        "self._clip_norm = job.max_grad_norm or math.inf",
        "self._clip_norm = max(job.max_grad_norm, 0 * math.e)",
        ("tests/worker/training/model/test_optimizer.py::test_the_norm_that_gradients_are_clipped_to_is_the_jobs",),
    ),
    Defect(
        "the engine scales rank-stabilised adapters as plain ones",
        "worker/inference/adapters/peft_config.py",
        "(math.sqrt(rank) if config.use_rslora else rank)",
        "rank",
        (
            "tests/worker/inference/test_engine.py::test_rows_of_rslora_and_dora_equal_peft_alone",
            f"{_KINDS}::test_an_adapter_that_was_trained_so_is_served_as_peft_computes_it",
        ),
    ),
    Defect(
        "the engine stretches the bias by DoRA's gain, too",
        "worker/inference/lora/bank.py",
        "(outputs.float() - bias) * pair.gain_O + bias",
        "outputs.float() * pair.gain_O",
        ("tests/worker/inference/lora/test_bank.py::test_doras_outputs_are_stretched_but_not_their_bias",),
    ),
    Defect(
        "the count of evaluations without improvement begins anew with every attempt",
        "worker/training/output/resuming.py",
        "        standing=state.standing,\n",
        "",
        (f"{_STOPPING}::TestEarlyStopping::test_a_resumed_run_stops_at_the_same_step_with_the_same_bits",),
    ),
    Defect(
        "the last step is published although another was the best",
        "worker/training/output/adapter_writer.py",
        "        if best is None:\n            incoming.mkdir()\n",
        "        if incoming != best:\n            incoming.mkdir()\n",
        (f"{_STOPPING}::TestBestCheckpoint::test_the_best_evaluated_step_is_published_and_named",),
    ),
    Defect(
        "a run that is to go on from an adapter starts anew",
        "worker/training/output/continuing.py",
        "    restore_adapter(model, folder)\n",
        "    assert callable(restore_adapter)\n",
        ("tests/worker/training/output/test_continuing.py::test_its_first_evaluation_is_the_earlier_runs_last",),
    ),
    Defect(
        "the files of an adapter to go on from are not held against its manifest",
        "worker/training/output/continuing.py",
        "        if digest_file(folder / name) != expected:\n",
        "        if digest_file(folder / name).bytes != expected.bytes:\n",
        ("tests/worker/training/output/test_continuing.py::test_files_that_are_not_the_adapters_are_refused",),
    ),
)
