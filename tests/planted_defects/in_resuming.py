"""Defects by which a run that is resumed, saved or repeated is another run."""

from tests.planted_defects.defect import Defect

RESUME = "tests/worker/training/test_traps_resume.py"
KILLS = "tests/worker/training/test_kill_points.py"

DEFECTS = (
    Defect(
        "33 a resumed run begins with the first epoch's first examples again",
        "worker/training/loop.py",
        "        found = self.gradient.accumulate(self.progress.step)\n",
        "        found = self.gradient.accumulate(self.progress.step if self.meter.speed.steps else 0)\n",
        (f"{RESUME}::TestTrap33",),
    ),
    Defect(
        "33 a resumed optimizer counts its steps from 0",
        "worker/training/output/resuming.py",
        "    optimizer.restore(checkpoint.optimizer_tensors(), state.step)\n",
        "    optimizer.restore(checkpoint.optimizer_tensors(), 0)\n",
        (f"{RESUME}::TestTrap33",),
    ),
    Defect(
        "33 a resumed optimizer has forgotten its moments",
        "worker/training/output/resuming.py",
        "    optimizer.restore(checkpoint.optimizer_tensors(), state.step)\n",
        "",
        (f"{RESUME}::TestTrap33",),
    ),
    Defect(
        "33 dropout is drawn from wherever the generator stands",
        "worker/training/step.py",
        "            torch.manual_seed(mix(self.plan.seed, step, number))\n",
        "",
        (f"{RESUME}::TestTrap33",),
    ),
    Defect(
        "33 each process of a run chooses the number type by itself",
        "worker/training/preparation.py",
        '    if dtype == "auto":\n',
        "    if False:\n",
        (f"{RESUME}::test_trap_33_a_resumed_run_keeps_its_number_type_whatever_the_probe_says_now",),
    ),
    Defect(
        "34 a resumed run begins with a fresh adapter",
        "worker/training/output/resuming.py",
        "    restore_adapter(model, checkpoint.adapter_folder)\n",
        "",
        (f"{RESUME}::test_trap_34_a_resumed_run_begins_with_the_checkpoints_adapter_ready_to_train",),
    ),
    Defect(
        "34 a resumed adapter is rounded",
        "worker/training/model/lora.py",
        "            parameter.copy_(tensors[name])\n",
        "            parameter.copy_(tensors[name].bfloat16())\n",
        (
            f"{RESUME}::test_trap_34_a_resumed_run_begins_with_the_checkpoints_adapter_ready_to_train",
            f"{RESUME}::TestTrap36::test_trap_36_saved_and_loaded_it_gives_the_same_logits",
        ),
    ),
    Defect(
        "35 PEFT saves the adapter, and asks the hub for the base model's config",
        "worker/training/model/lora.py",
        '    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})\n',
        '    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})\n'
        '    model.peft.peft_config[PEFT_NAME].base_model_name_or_path = "owner/base"\n'
        "    model.peft.save_pretrained(folder)\n",
        (f"{RESUME}::test_trap_35_training_and_saving_look_for_no_network",),
    ),
    Defect(
        "36 a base model's name is enough",
        "worker/training/preparation.py",
        "    if base.fingerprint != spec.base_model_fingerprint:\n",
        "    if False:\n",
        (f"{RESUME}::TestTrap36::test_trap_36_a_job_does_not_train_on_other_weights_under_the_same_name",),
    ),
    Defect(
        "37 only the loss is looked at",
        "worker/training/loop.py",
        "        if math.isfinite(loss) and math.isfinite(grad_norm):\n",
        "        if math.isfinite(loss):\n",
        (f"{RESUME}::TestTrap37",),
    ),
    Defect(
        "38 the adapter's start is drawn from wherever the generator stands",
        "worker/training/model/lora.py",
        "    torch.manual_seed(seed)  # A is drawn in the order of the base's layers, on the CPU\n",
        "",
        (f"{RESUME}::test_trap_38_two_runs_are_equal_to_the_bit_whatever_was_drawn_before",),
    ),
    Defect(
        "a checkpoint that was not finished stands in the way of the next",
        "worker/training/output/checkpoint.py",
        "            shutil.rmtree(unfinished)\n",
        "            pass\n",
        (KILLS,),
    ),
    Defect(
        "a resumed run counts its tokens anew",
        "worker/training/output/resuming.py",
        "        seen_tokens=state.seen_tokens,\n",
        "        seen_tokens=0,\n",
        (KILLS,),
    ),
)
