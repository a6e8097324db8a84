"""Runs that are trained together: each ends with the adapter that it has alone, whatever becomes of the others."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.errors import ExampleInvalid, LossNotFinite
from core.serving.adapter_format import WEIGHTS
from core.settings import Settings
from tests.harness.models.kernels import home_with_kernels
from tests.worker.training.faults.test_kill_points import assert_same_log, log_of, result_of
from tests.worker.training.reference_model import relative_error
from tests.worker.training.run_folders import SUMS, Killed, RecordingReporter, never_stop, train, write_lines, write_run
from worker.trainer_process.messages import Evaluated, Finished, Resumed, StepDone
from worker.trainer_process.run_folder import ADAPTER, TRAINING_FILE
from worker.training import lockstep, preparation
from worker.training import loop as loop_module
from worker.training import passes as passes_module
from worker.training import run as run_module
from worker.training import together as together_module
from worker.training.data import examples, shared_examples
from worker.training.native.build import load
from worker.training.passes import Share
from worker.training.process.stopping import Stopped
from worker.training.run import TrainerRun
from worker.training.together import run_together

TOKEN_BUDGET = 240  # of a micro-batch: a step of ten examples is cut in two, and two short ones share a pass
TOLERANCE = 1e-5

Job = dict[str, Any]


@pytest.fixture(autouse=True)
def small_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "choose_token_budget", lambda *_: TOKEN_BUDGET)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many runs each pass was."""
    found: list[int] = []
    usual = passes_module.compute

    def counting(shares: Sequence[Share]) -> Any:
        found.append(len(shares))
        return usual(shares)

    monkeypatch.setattr(lockstep, "compute", counting)
    return found


def train_together(
    folders: Sequence[Path], reporters: Sequence[RecordingReporter] | None = None
) -> tuple[list[Exception | None], list[RecordingReporter]]:
    reporters = reporters or [RecordingReporter() for _ in folders]
    runs = [TrainerRun(folder, said, never_stop) for folder, said in zip(folders, reporters, strict=True)]
    return run_together(runs), list(reporters)


def draw_mix(seed: int) -> list[Job]:
    """Draw a few jobs that differ in everything that runs of one base may differ in."""
    draw = random.Random(seed)
    jobs = []
    for number in range(draw.choice([2, 3, 4])):
        kind = draw.choice(["plain", "noise", "some layers"] if number < 2 else ["plain", "dropout", "dora"])
        lora: Job = {"rank": draw.choice([1, 3, 4, 8]), "alpha": draw.choice([4.0, 7.0, 8.0])}
        lora |= {"dropout": 0.3} if kind == "dropout" else {"use_dora": True} if kind == "dora" else {}
        lora |= {"target_modules": ("q_proj", "v_proj")} if kind == "some layers" else {}
        jobs.append(
            {
                "lora": lora,
                "prompt_loss_weight": draw.choice([0.0, 0.0, 0.1, 1.0]),
                "learning_rate": draw.choice([1e-3, 5e-3, 2e-2]),
                "seed": draw.randrange(1000),
                "batch_size": draw.choice([2, 3] if number < 2 else [2, 5, 10]),
                "n_epochs": draw.choice([1, 2]),
                "lr_scheduler_type": draw.choice(["linear", "cosine"]),
                "load_best_model_at_end": draw.random() < 0.3,
                "neftune_noise_alpha": 5.0 if kind == "noise" else 0.0,
            }
        )
    return jobs


@pytest.fixture(params=["with kernels", "with torch alone"])
def kernels_folder(request: pytest.FixtureRequest) -> Path | None:
    if request.param == "with torch alone":
        return None
    folder = Settings(home=home_with_kernels()).kernels_folder
    if load(folder, torch.device("cpu"), torch.float32) is None:
        pytest.skip("this machine trains without kernels")
    return folder


@pytest.mark.parametrize("mix", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
@pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
def test_each_run_ends_with_the_adapter_that_it_has_alone(
    tmp_path: Path,
    base: str,
    mix: int,
    kernels_folder: Path | None,
    request: pytest.FixtureRequest,
    passes: list[int],
) -> None:
    jobs = draw_mix(mix)

    def write(name: str) -> list[Path]:
        folder: Path = request.getfixturevalue(base)
        return [
            write_run(tmp_path / name / str(n), folder, kernels_folder=kernels_folder, **job)
            for n, job in enumerate(jobs)
        ]

    alone, together = write("alone"), write("together")
    expected = [train(folder) for folder in alone]
    assert set(passes) == {1}
    errors, said = train_together(together)
    assert errors == [None] * len(jobs)
    assert max(passes) > 1
    for ours, theirs, log, expected_log in zip(together, alone, said, expected, strict=True):
        if kernels_folder is not None:  # the sums of a row are the same, whatever other rows there are
            assert result_of(ours) == result_of(theirs)
            assert_same_log(log_of(log.messages), log_of(expected_log.messages))
        found, wanted = (load_file(folder / ADAPTER / WEIGHTS) for folder in (ours, theirs))
        assert relative_error(found, wanted) < TOLERANCE


PAIR: tuple[Job, Job] = ({"seed": 1, "batch_size": 3}, {"seed": 2, "lora": {"rank": 8, "alpha": 8}})


@pytest.fixture
def pair(tmp_path: Path, tiny_phi: Path) -> list[Path]:
    return [write_run(tmp_path / str(n), tiny_phi, **job) for n, job in enumerate(PAIR)]


@pytest.fixture
def pair_alone(tmp_path: Path, tiny_phi: Path) -> list[Path]:
    folders = [write_run(tmp_path / f"alone-{n}", tiny_phi, **job) for n, job in enumerate(PAIR)]
    for folder in folders:
        train(folder)
    return folders


def assert_same_adapter(folder: Path, expected: Path) -> None:
    found, wanted = (load_file(one / ADAPTER / WEIGHTS) for one in (folder, expected))
    assert relative_error(found, wanted) < TOLERANCE


def test_one_that_diverges_leaves_without_the_others(
    tmp_path: Path,
    tiny_phi: Path,
    pair: list[Path],
    pair_alone: list[Path],
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "choose_token_budget", lambda *_: 1000)
    mad = write_run(tmp_path / "mad", tiny_phi, learning_rate=1e30, max_grad_norm=0.0)
    errors, said = train_together([pair[0], mad, pair[1]])
    assert [type(error) for error in errors] == [type(None), LossNotFinite, type(None)]
    assert 3 in passes  # it was computed beside the others while its numbers were none
    assert not (mad / ADAPTER).exists()
    assert not said[1].of(Finished)
    for folder, expected in zip(pair, pair_alone, strict=True):
        assert_same_adapter(folder, expected)


def test_one_that_cannot_begin_leaves_before_the_others(
    tmp_path: Path, tiny_phi: Path, pair: list[Path], pair_alone: list[Path]
) -> None:
    broken = write_run(tmp_path / "broken", tiny_phi)
    (broken / TRAINING_FILE).write_text("no JSON\n")
    ends: list[tuple[int, type[Exception] | None]] = []
    runs = [TrainerRun(folder, RecordingReporter(), never_stop) for folder in (broken, *pair)]
    run_together(runs, on_end=lambda place, error: ends.append((place, type(error) if error else None)))
    assert ends[0] == (0, ExampleInvalid)
    assert sorted(ends[1:]) == [(1, None), (2, None)]
    for folder, expected in zip(pair, pair_alone, strict=True):
        assert_same_adapter(folder, expected)


def test_one_that_ends_early_leaves_the_others_to_go_on(tmp_path: Path, tiny_phi: Path, pair: list[Path]) -> None:
    impatient = write_run(
        tmp_path / "impatient", tiny_phi, learning_rate=5e-2, n_epochs=6, n_evals=6, early_stopping_patience=1
    )
    errors, said = train_together([impatient, *pair])
    assert errors == [None] * 3
    [finished, *_] = said[0].of(Finished)
    assert finished.steps < said[0].of(StepDone)[0].total_steps
    assert all(one.of(Finished)[0].steps == one.of(StepDone)[0].total_steps for one in said[1:])


def stopping_after(step: int) -> tuple[RecordingReporter, Callable[[], None]]:
    """Give a run's reporter, and what tells it to stop once it has taken a step."""
    reporter = RecordingReporter()

    def check_stop() -> None:
        if reporter.of(StepDone) and reporter.of(StepDone)[-1].step >= step:
            raise Stopped

    return reporter, check_stop


def test_one_that_is_told_to_stop_goes_on_later_from_there(pair: list[Path], pair_alone: list[Path]) -> None:
    reporter, check_stop = stopping_after(step=3)
    other = RecordingReporter()
    errors = run_together([TrainerRun(pair[0], reporter, check_stop), TrainerRun(pair[1], other, never_stop)])
    assert isinstance(errors[0], Stopped)
    assert errors[1] is None
    assert_same_adapter(pair[1], pair_alone[1])
    assert [resumed.step for resumed in train(pair[0]).of(Resumed)] == [3]
    assert_same_adapter(pair[0], pair_alone[0])


def test_after_a_kill_each_goes_on_from_its_own_newest_checkpoint(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "CHECKPOINT_INTERVAL_S", 0.0)
    whole, killed = (
        [write_run(tmp_path / name / str(n), tiny_phi, **job) for n, job in enumerate(PAIR)]
        for name in ("whole", "killed")
    )
    _, expected = train_together(whole)

    def die(message: object) -> None:
        if isinstance(message, StepDone) and message.step == 5:
            raise Killed

    before = [RecordingReporter(), RecordingReporter(die)]
    with pytest.raises(Killed):
        train_together(killed, before)
    _, after = train_together(killed)
    assert [one.of(Resumed)[0].step for one in after] == [max(d.step for d in before[0].of(StepDone)), 4]
    for first, second, undisturbed in zip(before, after, expected, strict=True):
        assert_same_log(log_of([*first.messages, *second.messages]), log_of(undisturbed.messages))
    assert [result_of(folder) for folder in killed] == [result_of(folder) for folder in whole]


@pytest.fixture
def full_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many runs each pass was that memory sufficed for: it does for one run's rows."""
    sufficed: list[int] = []
    usual = passes_module.compute

    def compute(shares: Sequence[Share]) -> Any:
        if len(shares) > 1:
            usual(shares[:1])  # a part of the gradient is there already
            raise MemoryError
        sufficed.append(len(shares))
        return usual(shares)

    monkeypatch.setattr(lockstep, "compute", compute)
    return sufficed


def test_where_memory_suffices_for_one_they_take_turns(
    pair: list[Path], pair_alone: list[Path], full_memory: list[int]
) -> None:
    full_memory.clear()
    errors, said = train_together(pair)
    assert errors == [None, None]
    assert set(full_memory) == {1}
    for folder, expected in zip(pair, pair_alone, strict=True):
        assert_same_adapter(folder, expected)
    assert [one.of(Finished)[0].measured.token_budget for one in said] == [
        TOKEN_BUDGET
    ] * 2  # their own were small enough


def test_examples_are_rendered_once_for_those_that_differ_in_other_things(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[float] = []
    usual = examples.load_data

    def counting(renderer: Any, job: Any, **given: Any) -> Any:
        rendered.append(job.prompt_loss_weight)
        return usual(renderer, job, **given)

    monkeypatch.setattr(shared_examples, "load_data", counting)
    jobs: list[Job] = [{"prompt_loss_weight": 0.1}, {"prompt_loss_weight": 0.0, "seed": 5}, {"max_length": 100}]
    folders = [write_run(tmp_path / str(n), tiny_phi, n_epochs=1, **job) for n, job in enumerate(jobs)]
    other = write_run(tmp_path / "other", tiny_phi, n_epochs=1)
    write_lines(other / TRAINING_FILE, SUMS[:12])
    errors, _ = train_together([*folders, other])
    assert errors == [None] * 4
    assert rendered == [0.1, 0.0, 0.0]  # of the longest lengths, of the shorter, of the other file


def test_the_base_is_loaded_once_for_each_number_type(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    usual = preparation.load_shared_base

    def counting(spec: Any, dtype: Any) -> Any:
        loaded.append(dtype)
        return usual(spec, dtype)

    monkeypatch.setattr(together_module, "load_shared_base", counting)
    dtypes = ["float32", "bfloat16", "float32", "bfloat16"]
    folders = [
        write_run(tmp_path / str(n), tiny_phi, dtype=dtype, n_epochs=1, seed=n) for n, dtype in enumerate(dtypes)
    ]
    errors, said = train_together(folders)
    assert errors == [None] * 4
    assert loaded == ["float32", "bfloat16"]
    measured = [one.of(Finished)[0].measured for one in said]
    assert [(one.machine.dtype, one.together) for one in measured] == [(dtype, 2) for dtype in dtypes]


def test_what_one_says_is_its_own(pair: list[Path]) -> None:
    _, said = train_together(pair)
    steps = [[done.step for done in one.of(StepDone)] for one in said]
    assert [numbers == list(range(1, len(numbers) + 1)) for numbers in steps] == [True, True]
    assert len(steps[0]) > len(steps[1])
    assert [one.of(Evaluated)[0].step for one in said] == [0, 0]
    assert [one.of(Finished)[0].folder for one in said] == [str(folder / ADAPTER) for folder in pair]
