"""Two processes train one adapter: as one would, and to the same bits whatever happens to either of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
import torch
from safetensors.torch import load_file

from core.jobs.spec import LoraSpec
from core.serving.adapter_format import WEIGHTS
from tests.worker.training.faults.test_kill_points import assert_same_log, log_of, result_of
from tests.worker.training.process.ranked import (
    after_step,
    checkpoint_each_step,
    run_ranks,
    signal_after,
    signal_while_answering,
    token_budgets,
)
from tests.worker.training.run_folders import SUMS, train, write_run
from worker.trainer_process.messages import (
    CheckpointWritten,
    Evaluated,
    Failed,
    Finished,
    Interrupted,
    Message,
    Note,
    Resumed,
    StepDone,
)
from worker.trainer_process.run_folder import ADAPTER, CHECKPOINTS, EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_PEER_LOST
from worker.training import run as run_module
from worker.training.data.plan import pack
from worker.training.model import lora as lora_module
from worker.training.model.optimizer import AdapterOptimizer

TOKEN_BUDGET = 70  # of a micro-batch, so that a step has several
BUDGETS = token_budgets(TOKEN_BUDGET, 90)  # the smaller one counts
DROPOUT = LoraSpec(rank=4, alpha=8, dropout=0.3)
LINES, HELD_OUT = SUMS[:21], SUMS[21:]  # in batches of 5: the last step of an epoch has one example, for two ranks
TOLERANCE = 1e-5
# Numbers of a message, and by how much of themselves they may differ from another number of ranks.
CLOSE: dict[type[Message], dict[str, float]] = {
    StepDone: {"loss": 1e-6, "grad_norm": 1e-5, "learning_rate": 0, "token_accuracy": 0, "seen_tokens": 0},
    Evaluated: {"loss": 1e-6, "token_accuracy": 0, "tokens": 0, "examples": 0},
}


def _write(folder: Path, base: Path, lora: LoraSpec | None = None) -> Path:
    return write_run(folder, base, LINES, validation=HELD_OUT, lora=lora or LoraSpec(rank=4, alpha=8))


@pytest.fixture
def train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "choose_token_budget", lambda *_: TOKEN_BUDGET)


def _require_close(folder: Path, expected: Path) -> None:
    adapter, other = (load_file(one / ADAPTER / WEIGHTS) for one in (folder, expected))
    for name, tensor in other.items():
        assert (adapter[name] - tensor).norm() <= TOLERANCE * tensor.norm()


def _require_close_log(messages: Sequence[Message], expected: Sequence[Message]) -> None:
    for kind, names in CLOSE.items():
        numbers, others = (
            [[getattr(message, name) for name in names] for message in said if isinstance(message, kind)]
            for said in (messages, expected)
        )
        assert len(numbers) == len(others) > 0
        for row, other in zip(numbers, others, strict=True):
            for name, number, wanted in zip(names, row, other, strict=True):
                assert number == pytest.approx(wanted, rel=names[name]), name


def _has(messages: Sequence[Message], kind: type[Message]) -> bool:
    return any(isinstance(message, kind) for message in messages)


@pytest.mark.usefixtures("train_alone")
class TestTwoRanks:
    @pytest.mark.parametrize("lora", [LoraSpec(rank=4, alpha=8), DROPOUT], ids=["no dropout", "dropout"])
    def test_they_train_the_adapter_of_one_and_only_the_first_says_so(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraSpec
    ) -> None:
        alone, folder = _write(tmp_path / "alone", tiny_phi, lora), _write(tmp_path / "two", tiny_phi, lora)
        if lora.dropout:  # what is dropped depends on the cut into micro-batches, so both must have the same
            monkeypatch.setattr(lora_module, "pack", lambda lengths, budget, **_: pack(lengths, budget, ranks=2))
        reporter = train(alone)
        ended = run_ranks(folder, BUDGETS)
        assert ended.codes == [EXIT_DONE, EXIT_DONE]
        _require_close(folder, alone)
        _require_close_log(ended.said[0], reporter.messages)
        assert ended.said[1] == []
        finished = ended.said[0][-1]
        assert isinstance(finished, Finished)
        assert (finished.measured.token_budget, finished.measured.machine.devices) == (TOKEN_BUDGET, 2)

    def test_one_goes_on_with_the_run_of_two_and_two_with_that_of_one(self, tmp_path: Path, tiny_phi: Path) -> None:
        alone, folder = _write(tmp_path / "alone", tiny_phi), _write(tmp_path / "two", tiny_phi)
        train(alone)
        assert run_ranks(folder, BUDGETS, signal_after(4, 0, SIGTERM)).codes == [EXIT_AGAIN] * 2
        by_two = shutil.copytree(folder, tmp_path / "by-two")
        by_one = train(folder)
        assert [message.step for message in by_one.of(Resumed)] == [4]
        assert any("equal up to rounding" in message.message for message in by_one.of(Note))
        _require_close(folder, alone)
        ended = run_ranks(by_two, BUDGETS)
        assert ended.codes == [EXIT_DONE] * 2
        assert not any("equal up to rounding" in note.message for note in ended.said[0] if isinstance(note, Note))
        _require_close(by_two, alone)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_stop_that_one_sees_stops_both_and_they_go_on_to_the_same_bits(
    tmp_path: Path, tiny_phi: Path, victim: int
) -> None:
    whole, folder = (_write(tmp_path / name, tiny_phi, DROPOUT) for name in ("whole", "stopped"))
    undisturbed = run_ranks(whole, BUDGETS)
    stopped = run_ranks(folder, BUDGETS, signal_after(4, victim, SIGTERM))
    assert stopped.codes == [EXIT_AGAIN, EXIT_AGAIN]
    assert [type(message) for message in stopped.said[0][-2:]] == [CheckpointWritten, Interrupted]
    assert next(one.step for one in stopped.said[0][::-1] if isinstance(one, CheckpointWritten)) == 4
    resumed = run_ranks(folder, BUDGETS)
    assert resumed.codes == [EXIT_DONE, EXIT_DONE]
    assert result_of(folder) == result_of(whole)
    assert_same_log(log_of([*stopped.said[0], *resumed.said[0]]), log_of(undisturbed.said[0]))


def test_a_stop_while_the_first_samples_stops_the_one_that_waits_for_it(tmp_path: Path, tiny_phi: Path) -> None:
    folder = _write(tmp_path / "run", tiny_phi)
    ended = run_ranks(folder, signal_while_answering(SIGTERM))
    assert ended.codes == [EXIT_AGAIN, EXIT_AGAIN]
    assert not _has(ended.said[0], Evaluated)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_the_other_with_it_which_blames_nobody(
    tmp_path: Path, tiny_phi: Path, victim: int
) -> None:
    folder = _write(tmp_path / "run", tiny_phi)
    ended = run_ranks(folder, checkpoint_each_step, signal_after(4, victim, SIGKILL))
    assert ended.codes == ([-SIGKILL, EXIT_PEER_LOST] if victim == 0 else [EXIT_PEER_LOST, -SIGKILL])
    assert not _has(ended.said[0] + ended.said[1], Failed)
    assert (folder / CHECKPOINTS / "step-000003").exists()


def _fail(_: AdapterOptimizer) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_rank_that_fails_alone_says_why(tmp_path: Path, tiny_phi: Path) -> None:
    ended = run_ranks(_write(tmp_path / "run", tiny_phi), after_step(4, 1, _fail))
    assert ended.codes == [EXIT_PEER_LOST, EXIT_FAILED]
    assert not _has(ended.said[0], Failed)
    assert [message.code for message in ended.said[1] if isinstance(message, Failed)] == ["out_of_memory"]


def _nudge(optimizer: AdapterOptimizer) -> None:
    with torch.no_grad():
        next(iter(optimizer._parameters.values())).view(-1)[0] += 1e-6


def test_adapters_that_differ_by_a_bit_are_written_by_nobody(tmp_path: Path, tiny_phi: Path) -> None:
    folder = _write(tmp_path / "run", tiny_phi)
    ended = run_ranks(folder, checkpoint_each_step, after_step(4, 1, _nudge))
    assert ended.codes == [EXIT_FAILED, EXIT_FAILED]
    failed = ended.said[0][-1]
    assert isinstance(failed, Failed)
    assert (failed.code, "at step 4 the 2 processes" in failed.message) == ("ranks_differ", True)
    assert not (folder / CHECKPOINTS / "step-000004").exists()
