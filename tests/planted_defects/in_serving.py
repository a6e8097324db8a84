"""Defects by which an engine answers with another adapter, or with what another request left behind."""

from tests.planted_defects.defect import Defect

RUNNER = "tests/worker/inference/model/test_runner.py"
MIX = f"{RUNNER}::test_each_row_of_any_mix_has_its_own_adapters_logits"
LORA = "tests/worker/inference/lora/test_bank.py"
KV = "tests/worker/inference/kv_cache/test_slots.py"
GRAPHS = "tests/worker/inference/model/test_cuda_graphs.py"
OTHERS = "tests/worker/inference/kv_cache/test_prefix.py::test_what_others_left_is_not_found"

DEFECTS = (
    Defect(
        "base rows of a mixed batch get what the adapters in it add",
        "worker/inference/lora/plan.py",
        "    mask_NR = None if bool(mask.all()) else mask.to(like.device, like.dtype)\n",
        "    mask_NR = None\n",
        (f"{LORA}::test_every_token_of_any_mix_gets_its_own_adapters_delta", MIX),
    ),
    Defect(
        "compiled kernels give each row the first adapter's columns",
        "worker/inference/model/native_ops.py",
        "        return LoraRows(plan.begins, plan.ranks[None])\n",
        "        return LoraRows(plan.begins * 0 + plan.begins[0], plan.ranks[None])\n",
        (MIX,),
    ),
    Defect(
        "columns keep what an adapter of larger rank left there",
        "worker/inference/lora/bank.py",
        "                    factor[rank:] = 0\n",
        "                    pass\n",
        (f"{LORA}::test_columns_that_another_adapter_had_leave_nothing_behind",),
    ),
    Defect(
        "an adapter in use loses its columns to another",
        "worker/inference/lora/bank.py",
        "            if any(placement.pins for _, placement in inside):\n",
        "            if False:\n",
        (f"{LORA}::test_an_adapter_in_use_is_never_displaced_and_the_least_recently_used_goes_first",),
    ),
    Defect(
        "a slot that moves to a free place leaves its values behind",
        "worker/inference/kv_cache/slots.py",
        "            values[slot.place, :, : last.length] = values[last.place, :, : last.length]\n",
        "",
        (f"{KV}::test_any_order_of_requests_keeps_each_ones_values_side_by_side_and_within_the_limit",),
    ),
    Defect(
        "cached prompts are shared across adapters",
        "worker/inference/kv_cache/prefix.py",
        'whose + (adapter or "base").encode()',
        "whose",
        (OTHERS,),
    ),
    Defect(
        "cached prompts are shared across callers",
        "worker/inference/kv_cache/prefix.py",
        "    whose = caller.encode()\n",
        '    whose = b""\n',
        (OTHERS,),
    ),
    Defect(
        "a rejected guess stays in the cache",
        "worker/inference/scheduler/step_plan.py",
        "        self.slot.truncate(len(self.answer.ids) - 1)\n",
        "",
        ("tests/worker/inference/scheduler/test_batch.py::test_guesses_change_no_answer_and_save_steps",),
    ),
    Defect(
        "a token of a short row sees tokens that come after it",
        "worker/inference/model/layout.py",
        '        hidden_PL = torch.zeros(n_places, width).masked_fill_(torch.arange(width) >= ends, float("-inf"))\n',
        "        hidden_PL = torch.zeros(n_places, width)\n",
        (MIX,),
    ),
    Defect(
        "a recorded step writes into the slots of rows that take no part",
        "worker/inference/model/cuda_graphs.py",
        "        positions = [*held, *[0] * (kind.places - len(held))]\n",
        "        positions = [0] * kind.places\n"
        "        for row in rows:\n"
        "            positions[row.slot.place] = row.slot.length\n",
        (f"{GRAPHS}::test_places_without_a_row_keep_all_that_their_slots_hold",),
    ),
    Defect(
        "a recording is replayed over tensors that were given up",
        "worker/inference/kv_cache/slots.py",
        "        self.version += 1\n",
        "",
        (f"{GRAPHS}::test_an_arena_that_was_made_anew_is_the_one_that_is_used",),
    ),
    Defect(
        "a recording leaves out layers that got their columns after it was made",
        "worker/inference/lora/bank.py",
        "                    self.version += 1\n",
        "                    self.version = 1\n",
        (f"{GRAPHS}::test_layers_that_a_later_adapter_changes_take_part",),
    ),
)
