"""Defects by which a run that is resumed, saved or repeated is another run."""

from tests.planted_defects.defect import Defect

RESUME = "tests/worker/training/traps/test_traps_resume.py"
KILLS = "tests/worker/training/faults/test_kill_points.py"

DEFECTS = (
    Defect(
        name="33 a resumed run begins with the first epoch's first examples again",
        in_="worker.training.loop:TrainingLoop._take_step",
        replace="$gradient.shares($step)",
        by="$gradient.shares($step if self.meter.throughput.steps else 0)",
        tests=(f"{RESUME}::TestTrap33",),
    ),
    Defect(
        name="33 a resumed optimizer counts its steps from 0",
        in_="worker.training.output.resuming:restore",
        replace="$optimizer.restore($tensors, $step)",
        by="$optimizer.restore($tensors, 0)",
        tests=(f"{RESUME}::TestTrap33",),
    ),
    Defect(
        name="33 a resumed optimizer has forgotten its moments",
        in_="worker.training.output.resuming:restore",
        replace="$optimizer.restore($tensors, $step)",
        by="pass",
        tests=(f"{RESUME}::TestTrap33",),
    ),
    Defect(
        name="33 dropout is drawn from wherever the generator stands",
        in_="worker.training.passes:compute",
        replace="torch.manual_seed($seed)",
        by="pass",
        tests=(f"{RESUME}::TestTrap33",),
    ),
    Defect(
        name="33 each process of a run chooses the number type by itself",
        in_="worker.training.preparation:number_type_of",
        replace='$dtype == "auto"',
        by="False",
        tests=(f"{RESUME}::test_trap_33_a_resumed_run_keeps_its_number_type_whatever_the_probe_says_now",),
    ),
    Defect(
        name="34 a resumed run begins with a fresh adapter",
        in_="worker.training.output.resuming:restore",
        replace="restore_adapter($$$given)",
        by="pass",
        tests=(f"{RESUME}::test_trap_34_a_resumed_run_begins_with_the_checkpoints_adapter_ready_to_train",),
    ),
    Defect(
        name="34 a resumed adapter is rounded",
        in_="worker.training.output.adapter_files:restore_adapter",
        replace="$parameter.copy_($tensor)",
        by="$parameter.copy_($tensor.bfloat16())",
        tests=(
            f"{RESUME}::test_trap_34_a_resumed_run_begins_with_the_checkpoints_adapter_ready_to_train",
            f"{RESUME}::TestTrap36::test_trap_36_saved_and_loaded_it_gives_the_same_logits",
        ),
    ),
    Defect(
        name="35 PEFT saves the adapter, and asks the hub for the base model's config",
        in_="worker.training.output.adapter_files:save_adapter",
        replace="save_file($tensors, $folder / WEIGHTS, $$$rest)",
        by=(
            "save_file($tensors, $folder / WEIGHTS, $$$rest)\n"
            'model.peft.peft_config[model.adapter].base_model_name_or_path = "owner/base"\n'
            "model.peft.save_pretrained($folder)"
        ),
        tests=(f"{RESUME}::test_trap_35_training_and_saving_look_for_no_network",),
    ),
    Defect(
        name="36 a base model's name is enough",
        in_="worker.training.preparation:load_shared_base",
        replace="$base.fingerprint != $spec.base_model_fingerprint",
        by="False",
        tests=(f"{RESUME}::TestTrap36::test_trap_36_a_job_does_not_train_on_other_weights_under_the_same_name",),
    ),
    Defect(
        name="37 only the loss is looked at",
        in_="worker.training.loop:TrainingLoop._require_finite",
        replace="math.isfinite($loss) and math.isfinite($grad_norm)",
        by="math.isfinite($loss)",
        tests=(f"{RESUME}::TestTrap37",),
    ),
    Defect(
        name="38 the adapter's start is drawn from wherever the generator stands",
        in_="worker.training.model.lora:add_lora",
        replace="torch.manual_seed($seed)",
        by="pass",
        tests=(f"{RESUME}::test_trap_38_two_runs_are_equal_to_the_bit_whatever_was_drawn_before",),
    ),
    Defect(
        name="a checkpoint that was not finished stands in the way of the next",
        in_="worker.training.output.checkpoint:CheckpointFolder.__init__",
        replace="shutil.rmtree($unfinished)",
        by="pass",
        tests=(KILLS,),
    ),
    Defect(
        name="a resumed run counts its tokens anew",
        in_="worker.training.output.resuming:restore",
        replace="$made($$$rest, seen_tokens=$tokens)",
        by="$made($$$rest, seen_tokens=0)",
        tests=(KILLS,),
    ),
    Defect(
        name="a run goes on with another choice of held-out prompts",
        in_="worker.training.output.resuming:identity_of",
        replace="$spec.validation_file is None",
        by="False",
        tests=(f"{RESUME}::test_a_run_does_not_go_on_with_another_choice_of_held_out_prompts",),
    ),
)
