from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM

from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint
from core.errors import (
    AdapterUnchanged,
    AllExamplesDropped,
    BaseModelDiffers,
    CheckpointInvalid,
    HostUnfit,
    LossNotFinite,
    OutOfMemory,
    TargetModulesUnmatched,
)
from core.serving.adapter_format import CONFIG, MANIFEST, WEIGHTS, parse_manifest
from core.text.tokenizer import TextTokenizer
from tests.worker.training.run_folders import (
    SUMS,
    Killed,
    RecordingReporter,
    kill_after,
    make_job,
    stop_after,
    train,
    write_run,
)
from worker.trainer_process.messages import CheckpointWritten, Evaluated, Finished, Note, Resumed, StepDone
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS, read_spec, write_spec
from worker.training import loop as loop_module
from worker.training import preparation
from worker.training.model.lora import LoraModel

PLAIN = {"rank": 4, "alpha": 8}
DROPOUT = PLAIN | {"dropout": 0.3}
TOTAL_STEPS = 10  # of a run over SUMS with the defaults of make_job


def _adapter(folder: Path) -> bytes:
    return (folder / ADAPTER / WEIGHTS).read_bytes()


def test_a_run_that_repeats_another_has_micro_batches_no_larger_than_the_others(tmp_path: Path, tiny_phi: Path) -> None:
    folder = write_run(tmp_path / "run", tiny_phi)
    write_spec(folder, read_spec(folder).model_copy(update={"token_budget": 100}))
    [finished] = train(folder).of(Finished)
    assert finished.measured.token_budget == 100


def _steps(*reporters: RecordingReporter) -> list[tuple[Any, ...]]:
    """What every step reported, without clocks and memory."""
    return [
        (s.step, s.loss, s.token_accuracy, s.learning_rate, s.grad_norm, s.trained_tokens, s.seen_tokens)
        for reporter in reporters
        for s in reporter.of(StepDone)
    ]


class TestTraining:
    def test_the_loss_falls(self, tmp_path: Path, tiny_phi: Path) -> None:
        reporter = train(write_run(tmp_path / "run", tiny_phi, n_epochs=4))
        losses = [step.loss for step in reporter.of(StepDone)]
        assert len(losses) == 20
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
        scores = [evaluated.loss for evaluated in reporter.of(Evaluated)]
        assert scores[0] is not None
        assert scores[-1] is not None
        assert scores[-1] < scores[0]

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_overfitting_teaches_the_completion_and_to_stop(self, tmp_path: Path, tiny_llama: Path, dtype: str) -> None:
        lines = [{"prompt": f"{mark}:", "completion": f" {mark}{mark}"} for mark in "abcdefgh"]
        job: dict[str, Any] = {"n_epochs": 60, "batch_size": 8, "lora": {"rank": 16, "alpha": 32}}
        folder = write_run(tmp_path / "run", tiny_llama, lines, validation=lines, dtype=dtype, **job)
        assert train(folder).of(StepDone)[-1].loss < 0.05
        tokenizer = TextTokenizer.from_folder(tiny_llama)
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        model.load_adapter(str(folder / ADAPTER))
        for line in lines:
            prompt = tokenizer.encode(line["prompt"])
            ids = model.generate(
                torch.tensor([prompt]),
                max_new_tokens=12,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=tokenizer.eos_id,
            )[0].tolist()
            assert ids[len(prompt) :] == [*tokenizer.encode(line["completion"]), tokenizer.eos_id]

    def test_evaluates_before_the_first_step_and_at_the_end(self, tmp_path: Path, tiny_phi: Path) -> None:
        reporter = train(write_run(tmp_path / "run", tiny_phi))
        assert [evaluated.step for evaluated in reporter.of(Evaluated)] == [0, 2, 5, 8, TOTAL_STEPS]
        first_step = reporter.messages.index(reporter.of(StepDone)[0])
        assert reporter.messages.index(reporter.of(Evaluated)[0]) < first_step

    def test_checkpoints_carry_openais_metrics_and_can_be_served(self, tmp_path: Path, tiny_phi: Path) -> None:
        reporter = train(write_run(tmp_path / "run", tiny_phi))
        last = reporter.of(CheckpointWritten)[-1]
        evaluated = reporter.of(Evaluated)[-1]
        assert last.metrics["step"] == last.step == TOTAL_STEPS
        assert last.metrics["full_valid_loss"] == last.metrics["valid_loss"] == evaluated.loss
        assert last.metrics["full_valid_mean_token_accuracy"] == evaluated.token_accuracy
        assert last.metrics["train_loss"] == reporter.of(StepDone)[-1].completion_loss
        manifest = parse_manifest((Path(last.folder) / ADAPTER / MANIFEST).read_bytes())
        assert manifest.step == TOTAL_STEPS

    def test_a_checkpoint_is_written_at_least_every_minute(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop_module, "CHECKPOINT_INTERVAL_S", 0.0)
        reporter = train(write_run(tmp_path / "run", tiny_phi))
        assert [written.step for written in reporter.of(CheckpointWritten)] == list(range(1, TOTAL_STEPS + 1))
        between = next(written for written in reporter.of(CheckpointWritten) if written.step == 3)
        assert set(between.metrics) == {"step", "train_loss", "train_mean_token_accuracy"}

    def test_the_adapter_says_what_it_is(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi, validation=SUMS[:3])
        (finished,) = train(folder).of(Finished)
        manifest = parse_manifest((folder / ADAPTER / MANIFEST).read_bytes())
        completion_tokens = sum(len(line["completion"]) for line in SUMS)
        prompt_tokens = sum(len(line["prompt"]) for line in SUMS)
        assert finished.folder == str(folder / ADAPTER)
        assert finished.trained_on == manifest.trained_on
        assert manifest.trained_on == (
            f"{completion_tokens} completion tokens of 24 examples, 24 closing tokens; "
            f"{prompt_tokens} prompt tokens seen, weight 0"
        )
        assert finished.trained_tokens == 2 * (completion_tokens + 24)
        assert set(manifest.files) == {WEIGHTS, CONFIG}
        assert manifest.lora is not None
        assert manifest.lora.target_modules == ("dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj")
        assert manifest.tokenizer_sha256 == TextTokenizer.from_folder(tiny_phi).digest

    def test_two_runs_give_the_same_bytes(self, tmp_path: Path, tiny_phi: Path) -> None:
        digests = set()
        for name in ("one", "two"):
            folder = write_run(tmp_path / name, tiny_phi, lora=DROPOUT)
            train(folder)
            digests.add((folder / ADAPTER / MANIFEST).read_bytes())
        assert len(digests) == 1

    def test_a_phi_of_phi2s_config_and_tokenizer_trains(self, tmp_path: Path, phi2_folder: Path) -> None:
        base = _narrow_phi2(tmp_path / "phi-2", phi2_folder)
        reporter = train(write_run(tmp_path / "run", base, SUMS[:8], batch_size=4, learning_rate=2e-2))
        losses = [step.loss for step in reporter.of(StepDone)]
        assert losses[-1] < losses[0]


@dataclass(frozen=True)
class Whole:
    """A run that nobody disturbed."""

    folder: Path
    reporter: RecordingReporter
    lora: dict[str, Any]


def _undisturbed(folder: Path, base: Path, lora: dict[str, Any]) -> Whole:
    write_run(folder, base, lora=lora)
    return Whole(folder, train(folder), lora)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_phi: Path) -> Whole:
    return _undisturbed(tmp_path_factory.mktemp("undisturbed") / "whole", tiny_phi, PLAIN)


@pytest.fixture(scope="module", params=[PLAIN, DROPOUT], ids=["no dropout", "dropout"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_phi: Path) -> Whole:
    return _undisturbed(tmp_path_factory.mktemp("undisturbed") / "whole", tiny_phi, request.param)


class TestResume:
    @pytest.mark.parametrize("killed_after", [3, 7])
    def test_equals_the_uninterrupted_run_to_the_bit(
        self, tmp_path: Path, tiny_phi: Path, either: Whole, killed_after: int
    ) -> None:
        folder = write_run(tmp_path / "killed", tiny_phi, lora=either.lora)
        with pytest.raises(Killed):
            train(folder, kill_after(killed_after))
        reporter = train(folder)
        (resumed,) = reporter.of(Resumed)
        assert 0 < resumed.step < killed_after
        assert _adapter(folder) == _adapter(either.folder)
        assert _steps(reporter) == _steps(either.reporter)[resumed.step :]
        assert (folder / ADAPTER / MANIFEST).read_bytes() == (either.folder / ADAPTER / MANIFEST).read_bytes()

    def test_a_stop_loses_no_step(self, tmp_path: Path, tiny_phi: Path, whole: Whole) -> None:
        folder = write_run(tmp_path / "stopped", tiny_phi)
        first = stop_after(folder, step=4)
        assert first.of(CheckpointWritten)[-1].step == 4
        second = train(folder)
        assert second.of(Resumed)[0].step == 4
        assert _steps(first, second) == _steps(whole.reporter)
        assert _adapter(folder) == _adapter(whole.folder)

    def test_a_stop_while_evaluating_evaluates_again(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi)
        first = stop_after(folder, step=5)  # the held-out examples are due after it
        assert [evaluated.step for evaluated in first.of(Evaluated)] == [0, 2]
        second = train(folder)
        assert [evaluated.step for evaluated in second.of(Evaluated)] == [5, 8, TOTAL_STEPS]
        assert second.of(CheckpointWritten)[0].metrics["valid_loss"] == second.of(Evaluated)[0].loss

    def test_goes_on_from_an_earlier_attempts_checkpoint(self, tmp_path: Path, tiny_phi: Path, whole: Whole) -> None:
        first = write_run(tmp_path / "a1", tiny_phi)
        stop_after(first, step=4)
        checkpoints = sorted((first / CHECKPOINTS).iterdir(), reverse=True)
        second = write_run(tmp_path / "a2", tiny_phi, resume_from=tuple(checkpoints))
        reporter = train(second)
        assert reporter.of(Resumed)[0].folder == str(checkpoints[0])
        assert _adapter(second) == _adapter(whole.folder)

    def test_a_damaged_newest_checkpoint_is_passed_over(self, tmp_path: Path, tiny_phi: Path, whole: Whole) -> None:
        folder = write_run(tmp_path / "damaged", tiny_phi)
        stop_after(folder, step=4)
        (folder / CHECKPOINTS / "step-000004" / ADAPTER / WEIGHTS).write_bytes(b"torn")
        reporter = train(folder)
        assert reporter.of(Resumed)[0].step == 2
        assert any("step-000004" in note.message for note in reporter.of(Note))
        assert _adapter(folder) == _adapter(whole.folder)

    @pytest.mark.parametrize(
        ("change", "named"),
        [({"learning_rate": 1e-3}, "specification"), ({"lines": SUMS[1:]}, "data set"), ({"base": None}, "base model")],
    )
    def test_another_runs_checkpoint_is_refused(
        self, tmp_path: Path, tiny_phi: Path, tiny_llama: Path, change: dict[str, Any], named: str
    ) -> None:
        first = write_run(tmp_path / "a1", tiny_phi)
        stop_after(first, step=3)
        base = tiny_llama if "base" in change else tiny_phi
        job = {key: value for key, value in change.items() if key not in ("base", "lines")}
        second = write_run(
            tmp_path / "a2",
            base,
            change.get("lines", SUMS),
            resume_from=(first / CHECKPOINTS / "step-000003",),
            **job,
        )
        with pytest.raises(CheckpointInvalid, match=named):
            train(second)

    def test_a_finished_run_that_is_started_again_only_publishes(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi)
        train(folder)
        adapter = _adapter(folder)
        reporter = train(folder)
        assert reporter.of(StepDone) == []
        assert len(reporter.of(Finished)) == 1
        assert _adapter(folder) == adapter


class TestGuards:
    def test_another_base_model_than_the_jobs(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi)
        spec = (folder / "spec.json").read_text()
        fingerprint = ImportedModel.model_validate_json((tiny_phi / IMPORTED_FILE).read_bytes()).fingerprint
        (folder / "spec.json").write_text(spec.replace(fingerprint, "f" * 64))
        with pytest.raises(BaseModelDiffers, match="fingerprint"):
            train(folder)

    def test_a_gpu_that_cannot_be_used(self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preparation, "find_gpu_fault", lambda environ: "CUDA unknown error")
        folder = write_run(tmp_path / "run", tiny_phi)
        with pytest.raises(HostUnfit, match=r"its GPU cannot be used: CUDA unknown error; .*CUDA_VISIBLE_DEVICES=-1"):
            train(folder)

    def test_a_target_module_that_matches_nothing(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(TargetModulesUnmatched, match="o_proj"):
            train(write_run(tmp_path / "run", tiny_phi, lora={"target_modules": ("o_proj",)}))

    def test_every_example_dropped(self, tmp_path: Path, tiny_phi: Path) -> None:
        with pytest.raises(AllExamplesDropped):
            train(write_run(tmp_path / "run", tiny_phi, max_length=3))

    def test_a_loss_that_is_no_number_names_the_steps_lines(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        healthy = LoraModel.hidden_states

        def sick(model: LoraModel, *arguments: Any) -> torch.Tensor:
            return healthy(model, *arguments) * (float("nan") if torch.is_grad_enabled() else 1.0)

        monkeypatch.setattr(LoraModel, "hidden_states", sick)
        with pytest.raises(LossNotFinite, match="step 1") as caught:
            train(write_run(tmp_path / "run", tiny_phi))
        assert len(caught.value.lines) == make_job().batch_size

    def test_weights_that_are_no_numbers_are_never_written(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi, learning_rate=1e39, validation=[])
        with pytest.raises(LossNotFinite):
            train(folder)
        for weights in folder.rglob(WEIGHTS):
            assert all(bool(tensor.isfinite().all()) for tensor in load_file(weights).values())

    def test_an_adapter_that_did_not_change(self, tmp_path: Path, tiny_phi: Path) -> None:
        folder = write_run(tmp_path / "run", tiny_phi, learning_rate=0.0)
        with pytest.raises(AdapterUnchanged):
            train(folder)
        assert not (folder / ADAPTER).exists()

    @pytest.mark.parametrize(
        "failure",
        [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    )
    def test_a_full_memory(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch, failure: RuntimeError
    ) -> None:
        def fail(*_: object) -> None:
            raise failure

        monkeypatch.setattr(LoraModel, "hidden_states", fail)
        with pytest.raises(OutOfMemory, match="max_length"):
            train(write_run(tmp_path / "run", tiny_phi))

    def test_a_micro_batch_that_does_not_fit_is_cut_in_two(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = train(write_run(tmp_path / "undisturbed", tiny_phi, batch_size=12)).of(StepDone)
        healthy, limit = LoraModel.hidden_states, 128

        def fail_above_limit(model: LoraModel, batch: Any, *noise: Any) -> torch.Tensor:
            if torch.is_grad_enabled() and len(batch.input_ids_N) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return healthy(model, batch, *noise)

        monkeypatch.setattr(LoraModel, "hidden_states", fail_above_limit)
        reporter = train(write_run(tmp_path / "run", tiny_phi, batch_size=12))
        notes = [message.message for message in reporter.of(Note) if "memory" in message.message]
        assert notes == [
            f"memory did not suffice; micro-batches now have {tokens} tokens at most"
            for tokens in (1024, 512, 256, 128)
        ]
        for found, step in zip(reporter.of(StepDone), expected, strict=True):
            assert found.loss == pytest.approx(step.loss, rel=1e-5)


def _narrow_phi2(folder: Path, published: Path) -> Path:
    """Two layers of Phi-2's real config at a tenth of its width, with its real tokenizer."""
    config = PhiConfig.from_pretrained(
        published,
        num_hidden_layers=2,
        hidden_size=240,
        intermediate_size=960,
        num_attention_heads=3,
        num_key_value_heads=3,
    )
    torch.manual_seed(0)
    PhiForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((published / name).read_bytes())
    imported = ImportedModel(
        name="phi-2", fingerprint=compute_fingerprint(folder), source=Folder(path=folder), context_tokens=2048
    )
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return folder
