"""One test for each known way in which a run that is resumed, saved or repeated is another run."""

import math
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.errors import BaseModelDiffers, CheckpointInvalid, LossNotFinite
from core.serving.adapter_format import WEIGHTS
from core.text.held_out import HELD_OUT_VERSION
from tests.harness.models.tiny_models import write_tiny_phi
from tests.worker.training.conftest import MakeModel
from tests.worker.training.faults.test_kill_points import TOKEN_BUDGET, Log, Result, assert_same_log, log_of, result_of
from tests.worker.training.run_folders import SUMS, Killed, RecordingReporter, stop_after, train, write_run
from worker.models import precision
from worker.models.loading import load_base_model
from worker.trainer_process.messages import CheckpointWritten, Finished, Message, Resumed, StepDone
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS
from worker.training import loop as loop_module
from worker.training import run as run_module
from worker.training.lockstep import SharedWork
from worker.training.loop import TrainingLoop
from worker.training.output import resuming
from worker.training.output.adapter_files import restore_adapter, save_adapter
from worker.training.together import run

DROPOUT = {"rank": 4, "alpha": 8, "dropout": 0.3}
STEPS_PER_EPOCH = 5  # of a run over SUMS with the defaults of make_job, which has two epochs


def die_at_checkpoint(step: int) -> RecordingReporter:
    """A reporter under which the process dies as soon as the step's checkpoint is written."""

    def on_message(message: Message) -> None:
        if isinstance(message, CheckpointWritten) and message.step == step:
            raise Killed

    return RecordingReporter(on_message)


@pytest.fixture(scope="class")
def checkpoints_after_every_step() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "CHECKPOINT_INTERVAL_S", 0.0)
        patch.setattr(run_module, "choose_token_budget", lambda *_, **__: TOKEN_BUDGET)
        yield


@pytest.fixture(scope="class")
def whole(
    checkpoints_after_every_step: None,
    tiny_phi: Path,
    lora: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Result, Log]:
    """What the run that nobody disturbs leaves and says."""
    folder = write_run(tmp_path_factory.mktemp("whole") / "run", tiny_phi, lora=lora)
    messages = train(folder).messages
    return result_of(folder), log_of(messages)


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param({"rank": 4, "alpha": 8}, id="no dropout", marks=pytest.mark.slow),
        pytest.param(DROPOUT, id="dropout"),
    ],
    scope="class",
)
class TestTrap33:
    """A run that is killed goes on with the examples that the undisturbed one takes next, and its gradient."""

    @pytest.mark.parametrize(
        "step",
        [1, 3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2],
        ids=["first step", "mid-epoch", "epoch's end", "mid-second-epoch"],
    )
    def test_trap_33_killed_between_steps(
        self, tmp_path: Path, tiny_phi: Path, lora: dict[str, Any], whole: tuple[Result, Log], step: int
    ) -> None:
        folder, before = write_run(tmp_path / "killed", tiny_phi, lora=lora), die_at_checkpoint(step)
        with pytest.raises(Killed):
            train(folder, before)
        after = train(folder)
        assert [resumed.step for resumed in after.of(Resumed)] == [step]
        assert [done.step for done in after.of(StepDone)] == list(range(step + 1, 2 * STEPS_PER_EPOCH + 1))
        assert_same_log(log_of([*before.messages, *after.messages]), whole[1])
        assert result_of(folder) == whole[0]

    def test_trap_33_killed_within_a_step(
        self, tmp_path: Path, tiny_phi: Path, lora: dict[str, Any], whole: tuple[Result, Log]
    ) -> None:
        """Between two micro-batches of a step behind a checkpoint, whose gradient is then half added up."""
        folder, before, looks = write_run(tmp_path / "killed", tiny_phi, lora=lora), RecordingReporter(), Counter[int]()

        def die_at_second_look() -> None:
            done, checkpoints = len(before.of(StepDone)), [written.step for written in before.of(CheckpointWritten)]
            looks[done] += 1
            if done >= 2 and done in checkpoints and looks[done] == 2:
                raise Killed

        with pytest.raises(Killed):
            run(folder, before, die_at_second_look)
        after = train(folder)
        assert [resumed.step for resumed in after.of(Resumed)] == [before.of(StepDone)[-1].step]
        assert_same_log(log_of([*before.messages, *after.messages]), whole[1])
        assert result_of(folder) == whole[0]


@pytest.mark.parametrize("is_fast", [False, True])
def test_trap_33_a_resumed_run_keeps_its_number_type_whatever_the_probe_says_now(
    tmp_path: Path, tiny_phi: Path, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda: is_fast)
    whole, folder = (write_run(tmp_path / name, tiny_phi, dtype="auto") for name in ("whole", "killed"))
    expected, before = train(whole), die_at_checkpoint(5)
    with pytest.raises(Killed):
        train(folder, before)
    monkeypatch.setattr(precision, "fast_bf16", lambda: not is_fast)
    after = train(folder)
    assert_same_log(log_of([*before.messages, *after.messages]), log_of(expected.messages))
    assert result_of(folder) == result_of(whole)


def at_start_of_training(monkeypatch: pytest.MonkeyPatch, look: Callable[[TrainingLoop], None]) -> None:
    """Let a test look at a run when it is put together, before its first step in this process."""

    class Looked(TrainingLoop):
        def run(self) -> SharedWork[None]:
            look(self)
            return super().run()

    monkeypatch.setattr(run_module, "TrainingLoop", Looked)


def test_trap_34_a_resumed_run_begins_with_the_checkpoints_adapter_ready_to_train(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = (write_run(tmp_path / name, tiny_phi) for name in ("whole", "killed"))
    expected = train(whole).of(StepDone)
    with pytest.raises(Killed):
        train(folder, die_at_checkpoint(2))
    written = (folder / CHECKPOINTS / "step-000002" / ADAPTER / WEIGHTS).read_bytes()
    begun: list[tuple[bytes, bool]] = []

    def look(loop: TrainingLoop) -> None:
        (tmp_path / "begun").mkdir()
        save_adapter(loop.model, tmp_path / "begun")
        trains = all(parameter.requires_grad for parameter in loop.model.parameters.values())
        begun.append(((tmp_path / "begun" / WEIGHTS).read_bytes(), trains))

    at_start_of_training(monkeypatch, look)
    first = train(folder).of(StepDone)[0]
    assert begun == [(written, True)]
    assert (first.step, first.loss) == (3, expected[2].loss)


def test_trap_35_training_and_saving_look_for_no_network(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("there is no network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = write_run(tmp_path / "run", tiny_phi)
    assert len(train(folder).of(Finished)) == 1
    assert (folder / ADAPTER / WEIGHTS).is_file()
    assert asked == []


class TestTrap36:
    """An adapter is of one base model, and means the same after it was saved and loaded."""

    def test_trap_36_a_job_does_not_train_on_other_weights_under_the_same_name(
        self, tmp_path: Path, tiny_phi: Path
    ) -> None:
        folder = write_run(tmp_path / "run", tiny_phi)
        other = write_tiny_phi(tmp_path / "other", seed=1)
        spec = (folder / "spec.json").read_text()
        (folder / "spec.json").write_text(spec.replace(str(tiny_phi), str(other)))
        with pytest.raises(BaseModelDiffers, match="fingerprint"):
            train(folder)
        assert not (folder / ADAPTER).exists()

    @pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
    def test_trap_36_saved_and_loaded_it_gives_the_same_logits(
        self, tmp_path: Path, base: str, make_model: MakeModel, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(base)
        ids_BT = torch.randint(0, 256, (1, 48), generator=torch.Generator().manual_seed(0))

        def logits_of(model: torch.nn.Module) -> Tensor:
            with torch.no_grad():
                logits_BTV: Tensor = model.eval()(input_ids=ids_BT).logits
            return logits_BTV

        trained, fresh = make_model(folder), make_model(folder, random_b=False)
        expected = logits_of(trained.peft)
        assert not torch.allclose(logits_of(fresh.peft), expected, atol=0.1)
        save_adapter(trained, tmp_path)
        restore_adapter(fresh, tmp_path)
        assert torch.equal(logits_of(fresh.peft), expected)
        loaded = peft.PeftModel.from_pretrained(load_base_model(folder, dtype="float32").model, tmp_path)
        assert (logits_of(loaded) - expected).norm() < 1e-6 * expected.norm()


class TestTrap37:
    """A number that is none ends the run at its step; it is neither passed over nor shown as 0."""

    STEP = 4

    def poison(self, loop: TrainingLoop) -> None:
        """Make the gradient of one weight infinite in one step, whose loss is as finite as any."""
        [parameter, *_] = loop.model.parameters.values()

        def infinite(gradient: Tensor) -> Tensor:
            return gradient + math.inf if loop.progress.step == self.STEP - 1 else gradient

        parameter.register_hook(infinite)

    def test_trap_37_an_infinite_gradient_fails_the_job_at_its_step(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at_start_of_training(monkeypatch, self.poison)
        folder, reporter = write_run(tmp_path / "run", tiny_phi), RecordingReporter()
        with pytest.raises(LossNotFinite, match=f"at step {self.STEP} the loss is .* gradient's norm (inf|nan)"):
            train(folder, reporter)
        assert [step.step for step in reporter.of(StepDone)] == list(range(1, self.STEP))
        assert all(0 < step.loss < math.inf and step.grad_norm < math.inf for step in reporter.of(StepDone))
        assert not (folder / ADAPTER).exists()
        written = list((folder / CHECKPOINTS).rglob(WEIGHTS))
        assert written
        assert all(tensor.isfinite().all() for path in written for tensor in load_file(path).values())


@pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trap_38_two_runs_are_equal_to_the_bit_whatever_was_drawn_before(
    tmp_path: Path, base: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    ends = []
    for draws in (0, 7):
        torch.manual_seed(draws)
        torch.rand(draws)
        folder = write_run(tmp_path / f"after-{draws}", request.getfixturevalue(base), lora=DROPOUT, dtype=dtype)
        messages = train(folder).messages
        ends.append((result_of(folder), log_of(messages)))
    assert ends[0] == ends[1]


def test_a_run_does_not_go_on_with_another_choice_of_held_out_prompts(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = write_run(tmp_path / "drawn", tiny_phi)
    given = write_run(tmp_path / "given", tiny_phi, validation=SUMS[:3])
    for folder in (drawn, given):
        stop_after(folder, step=3)
    monkeypatch.setattr(resuming, "HELD_OUT_VERSION", HELD_OUT_VERSION + 1)
    with pytest.raises(CheckpointInvalid, match="written with another choice of held-out prompts"):
        train(drawn)
    assert train(given).of(Resumed)[0].step == 3  # none was drawn
