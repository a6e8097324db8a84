"""Defects of the optimizer, of what it starts from, and of the base models that it is given."""

from tests.planted_defects.defect import Defect

BASE = "tests/worker/models/test_traps.py"
OBJECTIVE = "tests/worker/training/test_traps_objective.py"
ORACLE = "tests/worker/training/test_oracle.py"

DEFECTS = (
    Defect(
        "20 heads that cannot be rotated are imported",
        "worker/models/importing.py",
        "    if width * share % 2:\n",
        "    if False:\n",
        (f"{BASE}::TestTrap20::test_trap_20_heads_that_cannot_be_rotated_are_refused_at_import",),
    ),
    Defect(
        "21 where bfloat16 is slow, float16 is taken",
        "worker/models/precision.py",
        "        return torch.bfloat16 if fast_bf16() else torch.float32\n",
        "        return torch.bfloat16 if fast_bf16() else torch.float16\n",
        (f"{BASE}::TestTrap21",),
    ),
    Defect(
        "21 a base model is loaded in the type of its release",
        "worker/models/loading.py",
        "            dtype=resolved,\n",
        '            dtype="auto",\n',
        (f"{BASE}::TestTrap21::test_trap_21_a_release_in_float16_is_loaded_in_another_type",),
    ),
    Defect(
        "21 float16 can be asked for",
        "core/base_models/registry.py",
        'DType = Literal["auto", "bfloat16", "float32"]\n',
        'DType = Literal["auto", "bfloat16", "float16", "float32"]\n',
        (f"{BASE}::TestTrap21::test_trap_21_float16_cannot_be_asked_for",),
    ),
    Defect(
        "21 GPUs that have no bfloat16 are taken to have it",
        "worker/models/precision.py",
        "AMPERE = (8, 0)",
        "AMPERE = (7, 5)",
        (f"{BASE}::TestTrap21::test_trap_21_a_gpu_without_bfloat16_computes_in_float32",),
    ),
    Defect(
        "22 the base model's own dropout is on while training",
        "worker/models/loading.py",
        "            module.p = 0.0\n",
        "            module.p = 0.1\n",
        (f"{OBJECTIVE}::test_trap_22_the_first_steps_loss_is_that_of_the_evaluation_before_it",),
    ),
    Defect(
        "24 a first token counts as a target",
        "core/text/rendered.py",
        "        return (0.0, *weights[1:]) if weights else ()\n",
        "        return weights\n",
        (f"{OBJECTIVE}::test_trap_24_a_first_token_is_no_target_and_is_not_counted",),
    ),
    Defect(
        "23 a step's loss is the mean of its micro-batches' means",
        "worker/training/step.py",
        "self.model.head, batch, total_weight, self.model.techniques)",
        "self.model.head, batch, float(batch.weights_K.sum()) * len(batches), self.model.techniques)",
        (
            f"{OBJECTIVE}::test_trap_23_the_gradient_is_the_steps_whatever_its_micro_batches",
            f"{ORACLE}::test_every_steps_loss_and_gradient_are_theirs",
        ),
    ),
    Defect(
        "25 a step is divided by its trained tokens, whatever they weigh",
        "worker/training/step.py",
        'float(sum(example.weights_T.sum(dtype="float64") for example in examples))',
        "float(sum((example.weights_T > 0).sum() for example in examples))",
        (f"{OBJECTIVE}::test_trap_25_no_loss_option_goes_past_the_steps_normaliser",),
    ),
    Defect(
        "26 a score is the mean of its micro-batches' means",
        "worker/training/measure/evaluation.py",
        "                sums.add(weighted_loss(hidden_KH, model.head, batch, total_weight=1.0)[1])\n",
        "                part = weighted_loss(hidden_KH, model.head, batch, total_weight=1.0)[1]\n"
        "                sums.add(LossSums(completion_nll=part.completion_loss, completion_tokens=1))\n",
        (f"{OBJECTIVE}::test_trap_26_a_score_is_a_mean_over_tokens_whatever_the_batches_and_the_prompts_weight",),
    ),
    Defect(
        "27 the adapter has the base's number type",
        "worker/training/model/lora.py",
        "    peft = get_peft_model(causal, config)\n",
        "    peft = get_peft_model(causal, config, autocast_adapter_dtype=False)\n",
        (f"{OBJECTIVE}::TestTrap27::test_trap_27_adapters_are_float32_whatever_the_base_is",),
    ),
    Defect(
        "27 weights are rounded to bfloat16 after each step",
        "worker/training/model/optimizer.py",
        "        self._adam.step()\n",
        "        self._adam.step()\n"
        "        for parameter in self._parameters.values():\n"
        "            parameter.data = parameter.data.bfloat16().float()\n",
        (f"{OBJECTIVE}::TestTrap27::test_trap_27_a_thousand_tiny_steps_end_where_float64_ends",),
    ),
    Defect(
        "27 steps are too small for AdamW's epsilon",
        "worker/training/model/optimizer.py",
        "EPSILON = 1e-8\n",
        "EPSILON = 1e-4\n",
        (
            f"{OBJECTIVE}::TestTrap27::test_trap_27_a_thousand_tiny_steps_end_where_float64_ends",
            f"{ORACLE}::test_a_whole_run_ends_at_their_adapter",
        ),
    ),
    Defect(
        "28 PEFT copies the input of each layer to float32",
        "worker/training/model/lora.py",
        "            module.cast_input_dtype_enabled = False\n",
        "            module.cast_input_dtype_enabled = True\n",
        ("tests/worker/training/model/test_lora.py::test_trap_28_bfloat16_gradients_do_not_need_pefts_float32_copies",),
    ),
    Defect(
        "31 adapters have a dropout by default",
        "core/jobs/spec.py",
        "    dropout: float = Field(0.0, ge=0, lt=1)\n",
        "    dropout: float = Field(0.05, ge=0, lt=1)\n",
        (f"{OBJECTIVE}::test_trap_31_by_default_nothing_is_drawn_while_training",),
    ),
    Defect(
        "32 the built-in learning rate is one for all weights",
        "core/base_models/registry.py",
        "        learning_rate=1e-3,\n",
        "        learning_rate=2e-5,\n",
        (f"{OBJECTIVE}::TestTrap32::test_trap_32_at_the_default_rate_eight_examples_are_soon_known_by_heart",),
    ),
    Defect(
        "32 the default learning rate is one for all weights",
        "core/base_models/registry.py",
        "    learning_rate: float = Field(2e-4, gt=0, lt=1)",
        "    learning_rate: float = Field(2e-5, gt=0, lt=1)",
        (f"{OBJECTIVE}::TestTrap32::test_trap_32_the_default_rate_is_ten_times_that_for_all_weights",),
    ),
    Defect(
        "39 norms are trained beside the adapter",
        "worker/training/model/lora.py",
        "    peft.train()\n",
        "    peft.train()\n"
        "    for name, parameter in peft.named_parameters():\n"
        "        parameter.requires_grad_(parameter.requires_grad or 'norm' in name)\n",
        (f"{OBJECTIVE}::test_trap_39_a_step_keeps_gradients_of_the_adapter_and_of_nothing_else",),
    ),
    Defect(
        "40 the head is counted as if its weights were trained",
        "worker/training/measure/flops.py",
        "per_scored + 4 * model.head.weight.numel()",
        "per_scored + 6 * model.head.weight.numel()",
        ("tests/worker/training/measure/test_flops.py::test_trap_40_the_operations_are_those_that_torch_counts",),
    ),
    Defect(
        "the learning rate is applied a step late",
        "worker/training/model/optimizer.py",
        "        self._adam.step()\n        self.drop_gradients()\n        return learning_rate\n",
        "        self._adam.step()\n        self.drop_gradients()\n"
        "        return self._peak_learning_rate * self._schedule.factor(max(0, step - 1))\n",
        (f"{ORACLE}::test_a_whole_run_ends_at_their_adapter",),
    ),
)
