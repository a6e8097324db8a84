from pathlib import Path

import pytest
import torch

from tests.worker.training.run_folders import SUMS, render, train, write_run
from worker.trainer_process.messages import Finished, StepDone
from worker.training.data.batches import collate
from worker.training.model.noise import draw_noise

CPU = torch.device("cpu")


def test_an_examples_noise_is_its_own_in_any_company(tmp_path: Path, tiny_phi: Path) -> None:
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training
    alone = draw_noise(collate([examples[1]], CPU), [7], alpha=5.0, width=80)
    inputs = len(examples[1].ids_T) - 1
    for padded in (False, True):
        batch = collate([examples[0], examples[1]], CPU, padded=padded)
        both = draw_noise(batch, [3, 7], alpha=5.0, width=80)
        begin = batch.lengths[0]
        assert torch.equal(both[begin : begin + inputs], alone[:inputs])
        assert not both[begin + inputs :].any()


def test_has_the_papers_size(tmp_path: Path, tiny_phi: Path) -> None:
    example = render(tmp_path, tiny_phi, SUMS, validation=[]).training[0]
    noise_NH = draw_noise(collate([example], CPU), [1], alpha=5.0, width=80)
    bound = 5.0 / ((len(example.ids_T) - 1) * 80) ** 0.5
    assert 0.95 * bound < float(noise_NH.abs().max()) <= bound


@pytest.mark.parametrize(("base", "dtype"), [("tiny_llama", "float32"), ("tiny_phi", "bfloat16")])
@pytest.mark.parametrize("lora", [{}, {"dropout": 0.1}, {"use_dora": True}], ids=["plain", "dropout", "DoRA"])
def test_a_run_with_noise_trains_in_either_number_type(
    tmp_path: Path, request: pytest.FixtureRequest, base: str, dtype: str, lora: dict[str, object]
) -> None:
    folder: Path = request.getfixturevalue(base)
    losses = []
    for alpha in (0.0, 5.0):
        run = write_run(
            tmp_path / str(alpha), folder, dtype=dtype, n_epochs=1, neftune_noise_alpha=alpha, lora={"rank": 4} | lora
        )
        reporter = train(run)
        assert reporter.of(Finished)
        losses.append([step.loss for step in reporter.of(StepDone)])
    assert losses[0] != losses[1]


def test_noise_does_not_depend_on_how_a_step_is_cut(
    tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for budget in (64, 100_000):
        monkeypatch.setattr("worker.training.run.choose_token_budget", lambda *_, budget=budget: budget)
        reporter = train(write_run(tmp_path / str(budget), tiny_phi, n_epochs=1, neftune_noise_alpha=5.0))
        losses.append([step.loss for step in reporter.of(StepDone)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
