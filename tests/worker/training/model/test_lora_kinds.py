"""Rank-stabilised LoRA and DoRA from training to serving, and runs with every knob changed at once."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.jobs.spec import LoraSpec
from core.serving.adapter_format import MANIFEST, WEIGHTS, parse_manifest
from tests.worker.inference.engine_harness import EngineHarness, PeftReference, make_request, store_adapter
from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import Killed, kill_after, train, write_run
from worker.models.loading import load_base_model
from worker.trainer_process.messages import Finished, StepDone
from worker.trainer_process.run_folder import ADAPTER
from worker.training.data.batches import MicroBatch
from worker.training.data.examples import TokenizedExample
from worker.training.model.lora import LoraModel, add_lora, is_finite
from worker.training.output.adapter_files import restore_adapter, save_adapter

KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
}
LENGTH = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
IDS = (5, 9, 65, 66, 67, 200)

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def _batch(model: LoraModel) -> MicroBatch:
    ids_T = np.array([*IDS, 0], dtype=np.int32)  # the last is only a target
    scored_T = np.array([False] + [True] * len(IDS))
    example = TokenizedExample(ids_T, scored_T.astype(np.float32), scored_T)
    return model.collate([example])


def _draw_magnitudes(model: LoraModel) -> None:
    """Move DoRA's lengths away from where they start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if name.endswith("lora_magnitude_vector"):
                parameter.mul_(torch.rand(parameter.shape, generator=generator) + 0.5)


@each_kind
@pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
def test_what_is_trained_is_what_peft_computes_from_the_files(
    tmp_path: Path, base: str, make_model: MakeModel, kind: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(base)
    model = make_model(folder, LoraSpec(rank=4, alpha=8, **kind))
    _draw_magnitudes(model)
    save_adapter(model, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(reference, tmp_path).eval()
    with torch.no_grad():
        ours = model.head(model.hidden_states(_batch(model)))
        expected = theirs(input_ids=torch.tensor([IDS])).logits[0]
        assert torch.allclose(ours, expected, atol=1e-4)


def test_rslora_scales_by_the_root_of_the_rank(tiny_phi: Path, make_model: MakeModel) -> None:
    """At rank 4 a plain alpha of 8 is scaled by 2; rank-stabilised, an alpha of 4 is."""
    plain = make_model(tiny_phi, LoraSpec(rank=4, alpha=8))
    stabilised = make_model(tiny_phi, LoraSpec(rank=4, alpha=4, use_rslora=True))
    with torch.no_grad():
        assert torch.equal(plain.hidden_states(_batch(plain)), stabilised.hidden_states(_batch(stabilised)))


def test_doras_lengths_are_in_the_file_under_pefts_name_and_come_back(
    tmp_path: Path, tiny_phi: Path, make_model: MakeModel
) -> None:
    spec = LoraSpec(rank=4, use_dora=True)
    model, fresh = make_model(tiny_phi, spec), make_model(tiny_phi, spec, random_b=False)
    _draw_magnitudes(model)
    save_adapter(model, tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    assert stored[LENGTH].shape == (80,)
    assert len(stored) == 2 * 6 * 3  # layers, modules, and A, B and the lengths
    restore_adapter(fresh, tmp_path)
    assert all(torch.equal(fresh.parameters[name], tensor) for name, tensor in model.parameters.items())
    with torch.no_grad():
        fresh.parameters[LENGTH][0] = float("inf")
    assert not is_finite(fresh)


def test_doras_lengths_are_trained_in_float32_over_a_bfloat16_base(tiny_phi: Path) -> None:
    model = add_lora(load_base_model(tiny_phi, dtype="bfloat16"), LoraSpec(rank=4, use_dora=True), seed=0)
    model.hidden_states(_batch(model)).float().square().sum().backward()
    gradient = model.parameters[LENGTH].grad
    assert model.parameters[LENGTH].dtype == torch.float32
    assert gradient is not None
    assert bool(gradient.any())


@each_kind
def test_an_adapter_that_was_trained_so_is_served_as_peft_computes_it(
    tmp_path: Path, tiny_phi: Path, kind: dict[str, Any]
) -> None:
    folder = write_run(tmp_path / "run", tiny_phi, lora={"rank": 4, "alpha": 8} | kind)
    losses = [step.loss for step in train(folder).of(StepDone)]
    assert losses[-1] < losses[0]
    harness = EngineHarness(tiny_phi, tmp_path)
    digest = store_adapter(folder / ADAPTER, harness.blobs)
    prompt = b"Please add. 3+2="
    [answer] = harness.complete(make_request(list(prompt), adapter=digest, max_tokens=8))
    assert answer.ids == PeftReference(tiny_phi).greedy(folder / ADAPTER, prompt, 8)
    lora = parse_manifest((folder / ADAPTER / MANIFEST).read_bytes()).lora
    assert lora is not None
    assert lora.use_dora == kind.get("use_dora", False)


ALL_KNOBS: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.2, "use_rslora": True, "use_dora": True},
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.3,
    "loraplus_lr_ratio": 4.0,
    "neftune_noise_alpha": 5.0,
    "n_evals": 5,
    "early_stopping_patience": 2,
    "load_best_model_at_end": True,
}


def test_a_run_with_every_knob_turned_resumes_to_the_bit(tmp_path: Path, tiny_phi: Path) -> None:
    whole = write_run(tmp_path / "whole", tiny_phi, **ALL_KNOBS)
    expected = train(whole)
    folder = write_run(tmp_path / "killed", tiny_phi, **ALL_KNOBS)
    with pytest.raises(Killed):
        train(folder, kill_after(5))
    resumed = train(folder)
    assert (folder / ADAPTER / WEIGHTS).read_bytes() == (whole / ADAPTER / WEIGHTS).read_bytes()
    assert resumed.of(Finished)[0].adapter_step == expected.of(Finished)[0].adapter_step
    losses = [step.loss for step in expected.of(StepDone)]
    assert [step.loss for step in resumed.of(StepDone)] == losses[4:]


PLAIN: dict[str, Any] = {"n_epochs": 1, "validation": []}
CHOOSING = ("n_evals", "early_stopping_patience", "load_best_model_at_end")  # these change no step


@pytest.mark.parametrize("knob", [name for name in ALL_KNOBS if name not in CHOOSING])
def test_each_knob_changes_what_a_run_makes(tmp_path: Path, tiny_phi: Path, knob: str) -> None:
    plain = write_run(tmp_path / "plain", tiny_phi, **PLAIN)
    changed = write_run(tmp_path / "changed", tiny_phi, **PLAIN, **{knob: ALL_KNOBS[knob]})
    for folder in (plain, changed):
        train(folder)
    assert (plain / ADAPTER / WEIGHTS).read_bytes() != (changed / ADAPTER / WEIGHTS).read_bytes()
