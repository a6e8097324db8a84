"""Runs that are killed anywhere and started again end at the bits of the run that nobody disturbed.

Here a kill is an exception that nothing of the trainer handles, at any of the points a run passes: each
message, each look for a stop, each file that is waited for, renamed or removed. ``test_killed_processes``
kills real processes, at any instruction.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from core.jobs.spec import LoraSpec
from core.serving.adapter_format import MANIFEST, WEIGHTS
from tests.worker.training.run_folders import Killed, RecordingReporter, write_run
from worker.trainer_process.messages import CheckpointWritten, Evaluated, Finished, Message, StepDone
from worker.trainer_process.run_folder import ADAPTER, RESULTS
from worker.training import run as run_module
from worker.training.together import run

TOKEN_BUDGET = 96  # of a micro-batch, so that a step has several
JOBS: dict[str, dict[str, Any]] = {
    "no dropout": {},
    "dropout": {"lora": LoraSpec(rank=4, alpha=8, dropout=0.3)},
    # it stops after step 6 of 10, and step 2 is the best
    "every knob, stopped early": {
        "learning_rate": 5e-2,
        "lora": LoraSpec(rank=4, alpha=8, dropout=0.1, use_rslora=True, use_dora=True),
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "loraplus_lr_ratio": 4.0,
        "neftune_noise_alpha": 5.0,
        "n_evals": 5,
        "early_stopping_patience": 2,
        "load_best_model_at_end": True,
    },
}
# What of a message must be equal however often its step was taken; the rest is clocks and memory.
SAID: dict[type[Message], set[str]] = {
    StepDone: {
        "step",
        "total_steps",
        "epoch",
        "loss",
        "completion_loss",
        "prompt_loss",
        "token_accuracy",
        "learning_rate",
        "grad_norm",
        "trained_tokens",
        "seen_tokens",
        "padding_tokens",
    },
    Evaluated: {"step", "loss", "token_accuracy", "tokens", "examples"},
    CheckpointWritten: {"step", "metrics"},
    Finished: {"steps", "trained_on", "trained_tokens", "metrics"},
}

Result = tuple[bytes, ...]


def result_of(folder: Path) -> Result:
    """Give the bytes of the finished adapter, of its manifest, and of the file with each step's numbers."""
    return tuple((folder / name).read_bytes() for name in (f"{ADAPTER}/{WEIGHTS}", f"{ADAPTER}/{MANIFEST}", RESULTS))


Log = dict[tuple[str, int], dict[str, Any]]


def log_of(messages: Iterable[Message]) -> Log:
    """Give what a run said of each step, by message type and step.

    Whatever is said again, by a process that takes up an earlier checkpoint, must be what was said before.
    """
    found: Log = {}
    for message in messages:
        if names := SAID.get(type(message)):
            content = message.model_dump(include=names)
            key = message.type, content.get("step", 0)
            assert found.setdefault(key, content) == content, f"step {key[1]} was not the same when it was taken again"
    return found


def assert_same_log(log: Log, expected: Log) -> None:
    """Compare all that was said; only where checkpoints fall is left to the clock and to the kills."""
    shared = {key: log[key] for key in log if key in expected or key[0] != "checkpoint_written"}
    assert shared == {key: expected[key] for key in expected if key in log or key[0] != "checkpoint_written"}


@dataclass
class Points:
    """Counts the points that a run passes, and kills it at one of them, before what happens there happens."""

    deadly: int | None = None
    kinds: list[str] = field(default_factory=list)  # of the points that were passed, in their order

    @property
    def passed(self) -> int:
        return len(self.kinds)

    def check(self, kind: str = "look for a stop") -> None:
        if self.passed == self.deadly:
            raise Killed
        self.kinds.append(kind)

    def check_message(self, message: Message) -> None:
        self.check(message.type)

    def before(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any, **named: Any) -> Any:
            self.check(name)
            return operation(*arguments, **named)

        return checked

    def of_each_kind(self, rng: Random) -> list[int]:
        """Draw points so that none of their kinds is left out, however few it has."""
        by_kind = defaultdict[str, list[int]](list)
        for point, kind in enumerate(self.kinds):
            by_kind[kind].append(point)
        return [rng.choice(points) for points in by_kind.values()]


def _run(folder: Path, deadly: int | None = None) -> tuple[RecordingReporter, Points]:
    """Train until the point; with None, to the end."""
    points = Points(deadly)
    reporter = RecordingReporter(points.check_message)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, points.before(name, getattr(os, name)))
        try:
            run(folder, reporter, points.check)
        except Killed:
            assert points.passed == deadly
    return reporter, points


# that without dropout is one of those that are killed as processes, and of trap 33; every knob has dropout as well
@pytest.fixture(params=["every knob, stopped early", pytest.param("dropout", marks=pytest.mark.slow)])
def job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(run_module, "choose_token_budget", lambda *_, **__: TOKEN_BUDGET)
    return JOBS[request.param]


@pytest.mark.slow  # the next test kills at random points, too, if not at one of each kind
def test_resumed_at_a_random_point_of_each_kind_a_run_equals_the_undisturbed_one_to_the_bit(
    tmp_path: Path, tiny_phi: Path, job: dict[str, Any]
) -> None:
    whole = write_run(tmp_path / "whole", tiny_phi, **job)
    reporter, points = _run(whole)
    expected, log = result_of(whole), log_of(reporter.messages)
    for deadly in points.of_each_kind(Random(0)):
        folder = write_run(tmp_path / f"killed-{deadly}", tiny_phi, **job)
        before, _ = _run(folder, deadly)
        after, _ = _run(folder)
        assert len(after.of(Finished)) == 1
        assert_same_log(log_of([*before.messages, *after.messages]), log)
        assert result_of(folder) == expected, f"killed at point {deadly}, {points.kinds[deadly]}"


def test_killed_again_and_again_a_run_still_ends_at_the_same_bits(
    tmp_path: Path, tiny_phi: Path, job: dict[str, Any]
) -> None:
    """Each process gets a little further, or not even that: some are killed before they reach a checkpoint."""
    whole = write_run(tmp_path / "whole", tiny_phi, **job)
    reporter, points = _run(whole)
    folder, rng = write_run(tmp_path / "killed", tiny_phi, **job), Random(1)
    starts, messages = 0, list[Message]()
    while not any(isinstance(message, Finished) for message in messages):
        found, _ = _run(folder, rng.randrange(points.passed))
        messages += found.messages
        starts += 1
    assert starts > 2
    assert_same_log(log_of(messages), log_of(reporter.messages))
    assert result_of(folder) == result_of(whole)
