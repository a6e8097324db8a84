"""Defects of the optimizer, of what it starts from, and of the base models that it is given."""

from tests.planted_defects.defect import Defect

BASE = "tests/worker/models/test_traps.py"
OBJECTIVE = "tests/worker/training/traps/test_traps_objective.py"
ORACLE = "tests/worker/training/test_oracle.py"

DEFECTS = (
    Defect(
        name="20 heads that cannot be rotated are imported",
        in_="worker.models.fetching:_check_rotation",
        replace="$width * $share % 2",
        by="False",
        tests=(f"{BASE}::TestTrap20::test_trap_20_heads_that_cannot_be_rotated_are_refused_at_import",),
    ),
    Defect(
        name="21 where bfloat16 is slow, float16 is taken",
        in_="worker.models.precision:resolve_dtype",
        replace="torch.bfloat16 if fast_bf16() else torch.float32",
        by="torch.bfloat16 if fast_bf16() else torch.float16",
        tests=(f"{BASE}::TestTrap21",),
    ),
    Defect(
        name="21 a base model is loaded in the type of its release",
        in_="worker.models.loading:load_causal_model",
        replace="$load($$$rest, dtype=$dtype)",
        by='$load($$$rest, dtype="auto")',
        tests=(f"{BASE}::TestTrap21::test_trap_21_a_release_in_float16_is_loaded_in_another_type",),
    ),
    Defect(
        name="21 float16 can be asked for",
        in_="core.base_models.registry",
        replace='Literal["auto", "bfloat16", "float32"]',
        by='Literal["auto", "bfloat16", "float16", "float32"]',
        tests=(f"{BASE}::TestTrap21::test_trap_21_float16_cannot_be_asked_for",),
    ),
    Defect(
        name="21 GPUs that have no bfloat16 are taken to have it",
        in_="worker.models.precision",
        replace="AMPERE = (8, 0)",
        by="AMPERE = (7, 5)",
        tests=(f"{BASE}::TestTrap21::test_trap_21_a_gpu_without_bfloat16_computes_in_float32",),
    ),
    Defect(
        name="22 the base model's own dropout is on while training",
        in_="worker.models.loading:_disable_dropout",
        replace="$module.p = 0.0",
        by="$module.p = 0.1",
        tests=(f"{OBJECTIVE}::test_trap_22_the_first_steps_loss_is_that_of_the_evaluation_before_it",),
    ),
    Defect(
        name="24 a first token counts as a target",
        in_="core.text.rendered:RenderedExample.weights",
        replace="(0.0, *$weights[1:]) if $weights else ()",
        by="$weights",
        tests=(f"{OBJECTIVE}::test_trap_24_a_first_token_is_no_target_and_is_not_counted",),
    ),
    Defect(
        name="23 a step's loss is the mean of its micro-batches' means",
        in_="worker.training.step:GradientAccumulator._shares",
        replace="Share($model, $batch, $noise_NH, $total, $$$rest)",
        by="Share($model, $batch, $noise_NH, float($batch.weights_K.sum()) * len(batches), $$$rest)",
        tests=(
            f"{OBJECTIVE}::test_trap_23_the_gradient_is_the_steps_whatever_its_micro_batches",
            f"{ORACLE}::test_every_steps_loss_and_gradient_are_theirs",
        ),
    ),
    Defect(
        name="25 a step is divided by its trained tokens, whatever they weigh",
        in_="worker.training.step:GradientAccumulator._shares",
        replace='float(sum($one.weights_T.sum(dtype="float64") for $one in $examples))',
        by="float(sum(($one.weights_T > 0).sum() for $one in $examples))",
        tests=(f"{OBJECTIVE}::test_trap_25_no_loss_option_goes_past_the_steps_normaliser",),
    ),
    Defect(
        name="26 a score is the mean of its micro-batches' means",
        in_="worker.training.measure.evaluation:evaluate",
        replace="$sums.add($losses)",
        by=("part = $losses\n$sums.add(LossSums(completion_nll=part.completion_loss, completion_tokens=1))"),
        tests=(f"{OBJECTIVE}::test_trap_26_a_score_is_a_mean_over_tokens_whatever_the_batches_and_the_prompts_weight",),
    ),
    Defect(
        name="27 the adapter has the base's number type",
        in_="worker.training.model.lora:add_lora",
        replace="get_peft_model($$$given)",
        by="get_peft_model($$$given, autocast_adapter_dtype=False)",
        tests=(f"{OBJECTIVE}::TestTrap27::test_trap_27_adapters_are_float32_whatever_the_base_is",),
    ),
    Defect(
        name="27 weights are rounded to bfloat16 after each step",
        in_="worker.training.model.optimizer:AdapterOptimizer.step",
        replace="self._adam.step()",
        by=(
            "self._adam.step()\n"
            "for parameter in self._parameters.values():\n"
            "    parameter.data = parameter.data.bfloat16().float()"
        ),
        tests=(f"{OBJECTIVE}::TestTrap27::test_trap_27_a_thousand_tiny_steps_end_where_float64_ends",),
    ),
    Defect(
        name="27 steps are too small for AdamW's epsilon",
        in_="worker.training.model.optimizer",
        replace="EPSILON = 1e-8",
        by="EPSILON = 1e-4",
        tests=(
            f"{OBJECTIVE}::TestTrap27::test_trap_27_a_thousand_tiny_steps_end_where_float64_ends",
            f"{ORACLE}::test_a_whole_run_ends_at_their_adapter",
        ),
    ),
    Defect(
        name="28 PEFT copies the input of each layer to float32",
        in_="worker.training.model.lora:_trust_autocast",
        replace="$module.cast_input_dtype_enabled = False",
        by="$module.cast_input_dtype_enabled = True",
        tests=(
            "tests/worker/training/model/test_lora.py::test_trap_28_bfloat16_gradients_do_not_need_pefts_float32_copies",
        ),
    ),
    Defect(
        name="31 adapters have a dropout by default",
        in_="core.jobs.spec:LoraSpec",
        replace="dropout: float = Field(0.0, $$$bounds)",
        by="dropout: float = Field(0.05, $$$bounds)",
        tests=(f"{OBJECTIVE}::test_trap_31_by_default_nothing_is_drawn_while_training",),
    ),
    Defect(
        name="32 the built-in learning rate is one for all weights",
        in_="core.base_models.registry",
        replace="$made($$$rest, learning_rate=1e-3)",
        by="$made($$$rest, learning_rate=2e-5)",
        tests=(f"{OBJECTIVE}::TestTrap32::test_trap_32_at_the_default_rate_four_examples_are_soon_known_by_heart",),
    ),
    Defect(
        name="32 the default learning rate is one for all weights",
        in_="core.base_models.registry:BaseModelEntry",
        replace="learning_rate: float = Field(2e-4, $$$bounds)",
        by="learning_rate: float = Field(2e-5, $$$bounds)",
        tests=(f"{OBJECTIVE}::TestTrap32::test_trap_32_the_default_rate_is_ten_times_that_for_all_weights",),
    ),
    Defect(
        name="39 norms are trained beside the adapter",
        in_="worker.training.model.lora:add_lora",
        replace="$peft.train()",
        by=(
            "$peft.train()\n"
            "for name, parameter in $peft.named_parameters():\n"
            "    parameter.requires_grad_(parameter.requires_grad or 'norm' in name)"
        ),
        tests=(f"{OBJECTIVE}::test_trap_39_a_step_keeps_gradients_of_the_adapter_and_of_nothing_else",),
    ),
    Defect(
        name="40 the head is counted as if its weights were trained",
        in_="worker.training.measure.flops:count_flops",
        replace="$scored + 4 * $head.weight.numel()",
        by="$scored + 6 * $head.weight.numel()",
        tests=("tests/worker/training/measure/test_flops.py::test_trap_40_the_operations_are_those_that_torch_counts",),
    ),
    Defect(
        name="the learning rate is applied a step late",
        in_="worker.training.model.optimizer:AdapterOptimizer.step",
        replace="return $rate",
        by="return self._peak_learning_rate * self._schedule.factor(max(0, step - 1))",
        tests=(f"{ORACLE}::test_a_whole_run_ends_at_their_adapter",),
    ),
)
