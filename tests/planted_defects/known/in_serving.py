"""Defects by which an engine answers with another adapter, or with what another request left behind."""

from tests.planted_defects.defect import Defect

RUNNER = "tests/worker/inference/model/test_runner.py"
MIX = f"{RUNNER}::test_each_row_of_any_mix_has_its_own_adapters_logits"
LORA = "tests/worker/inference/lora/test_bank.py"
KV = "tests/worker/inference/kv_cache/test_slots.py"
GRAPHS = "tests/worker/inference/model/test_cuda_graphs.py"
OTHERS = "tests/worker/inference/kv_cache/test_prefix.py::test_what_others_left_is_not_found"

TRUST = "tests/core/serving/test_adapter_trust.py"
VERDICT = f"{TRUST}::test_whatever_a_manifest_says_wrongly_both_refuse_it_in_the_same_words"

DEFECTS = (
    Defect(
        name="an adapter is served whose prompts are not rendered as they were trained",
        in_="core.serving.adapter_trust:_check_rendering",
        replace="if $mismatch is not None: raise AdapterMismatch($digest, $mismatch)",
        by="pass",
        tests=(VERDICT,),
    ),
    Defect(
        name="a manifest that says NaN, or one thing twice, is believed",
        in_="core.serving.adapter_format:parse_manifest",
        replace="parse_object($content)",
        by="None",
        tests=(VERDICT,),
    ),
    Defect(
        name="our engine calls an adapter that does not fit an invalid one, which vLLM's side does not",
        in_="worker.inference.adapters.verification:_Opener.open",
        replace="$trusted = trust_adapter($$$arguments)",
        by="try:\n    $trusted = trust_adapter($$$arguments)\n"
        "except Exception as error:\n    self._refuse(error.args[1])",
        tests=(VERDICT,),
    ),
    Defect(
        name="an alias moves before an engine has the new adapter",
        in_="app.aliases.routes:_move",
        replace="await service.warm($$$arguments)",
        by="pass",
        tests=("tests/app/aliases/test_routes.py::test_the_new_adapter_is_loaded_before_the_alias_moves",),
    ),
    Defect(
        name="a model is deleted that an alias stands for",
        in_="core.store.adapters:delete",
        replace="_require_unnamed($$$arguments)",
        by="pass",
        tests=(
            "tests/core/store/test_adapters.py::test_what_an_alias_stands_for_is_not_deleted",
            "tests/app/aliases/test_routes.py::test_a_model_is_not_deleted_while_an_alias_stands_for_it",
        ),
    ),
    Defect(
        name="an engine serves blocks that compute something else than transformers",
        in_="worker.inference.model.runner_building:_require_near",
        replace="not $error <= TOLERANCE",
        by="False",
        tests=("tests/worker/inference/model/test_runner_building.py",),
    ),
    Defect(
        name="a wrong memory of what transformers computes refuses a model",
        in_="worker.inference.model.runner_building:_try_blocks",
        replace="$stored.is_remembered and not $error <= TOLERANCE",
        by="False",
        tests=("tests/worker/inference/model/test_runner_building.py",),
    ),
    Defect(
        name="base rows of a mixed batch get what the adapters in it add",
        in_="worker.inference.lora.step_columns:_share",
        replace="None if $is_whole else $mask",
        by="None",
        tests=(f"{LORA}::test_every_token_of_any_mix_gets_its_own_adapters_delta", MIX),
    ),
    Defect(
        name="compiled kernels give each row the first adapter's columns",
        in_="worker.inference.model.native_ops:_prepare",
        replace="LoraRows($plan.begins, $ranks)",
        by="LoraRows($plan.begins * 0 + $plan.begins[0], $ranks)",
        tests=(MIX,),
    ),
    Defect(
        name="columns keep what an adapter of larger rank left there",
        in_="worker.inference.lora.bank:LoraGroup.copy",
        replace="$factor[$rank:] = 0",
        by="pass",
        tests=(f"{LORA}::test_columns_that_another_adapter_had_leave_nothing_behind",),
    ),
    Defect(
        name="an adapter in use loses its columns to another",
        in_="worker.inference.lora.bank:LoraBank._find_columns",
        replace="any($one.pins for $_, $one in $inside)",
        by="False",
        tests=(f"{LORA}::test_an_adapter_in_use_is_never_displaced_and_the_least_recently_used_goes_first",),
    ),
    Defect(
        name="a slot that moves to a free place leaves its values behind",
        in_="worker.inference.kv_cache.slots:Arena.release",
        replace="$values[$slot.place, :, :$last.length] = $values[$last.place, :, :$last.length]",
        by="pass",
        tests=(f"{KV}::test_any_order_of_requests_keeps_each_ones_values_side_by_side_and_within_the_limit",),
    ),
    Defect(
        name="cached prompts are shared across adapters",
        in_="worker.inference.kv_cache.prefix:_keys",
        replace='$whose + ($adapter or "base").encode()',
        by="$whose",
        tests=(OTHERS,),
    ),
    Defect(
        name="cached prompts are shared across callers",
        in_="worker.inference.kv_cache.prefix:_keys",
        replace="$whose = $caller.encode()",
        by='$whose = b""',
        tests=(OTHERS,),
    ),
    Defect(
        name="a rejected draft token stays in the cache",
        in_="worker.inference.scheduler.step_plan:RunningRow.append",
        replace="self.slot.truncate($length)",
        by="pass",
        tests=("tests/worker/inference/scheduler/test_batch.py::test_draft_tokens_change_no_text_and_save_steps",),
    ),
    Defect(
        name="a token of a short row sees tokens that come after it",
        in_="worker.inference.model.step_layout:_decode_rows",
        replace="$mask_SP.masked_fill_($$$given)",
        by="$mask_SP",
        tests=(MIX,),
    ),
    Defect(
        name="a recorded step writes into the slots of rows that take no part",
        in_="worker.inference.model.cuda_graphs:DecodeGraphs._numbers",
        replace="$positions = [*$held, *[0] * ($key.slots - len($held))]",
        by=("$positions = [0] * $key.slots\nfor row in rows:\n    $positions[row.slot.place] = row.slot.length"),
        tests=(f"{GRAPHS}::test_places_without_a_row_keep_all_that_their_slots_hold",),
    ),
    Defect(
        name="a recording is replayed over tensors that were given up",
        in_="worker.inference.kv_cache.slots:Arena.resize",
        replace="self.version += 1",
        by="pass",
        tests=(f"{GRAPHS}::test_an_arena_that_was_made_anew_is_the_one_that_is_used",),
    ),
    Defect(
        name="a recording leaves out layers that got their columns after it was made",
        in_="worker.inference.lora.bank:LoraBank.copy_some",
        replace="self.version += 1",
        by="self.version = 1",
        tests=(f"{GRAPHS}::test_layers_that_a_later_adapter_changes_take_part",),
    ),
)
