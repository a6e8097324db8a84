from pathlib import Path

import pytest

from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import SUMS, never_stop, render
from worker.training.measure.evaluation import evaluate
from worker.training.process.stopping import Stopped


def test_the_result_depends_neither_on_batching_nor_on_the_prompts_weight(
    tmp_path: Path, tiny_phi: Path, make_model: MakeModel
) -> None:
    model = make_model(tiny_phi)
    results = [
        evaluate(
            model,
            render(tmp_path, tiny_phi, SUMS, validation=[], prompt_loss_weight=weight).training,
            step=3,
            token_budget=budget,
            check_stop=never_stop,
        )
        for weight, budget in ((0.0, 1), (0.0, 200), (1.0, 10_000))
    ]
    assert {result.tokens for result in results} == {results[0].tokens}
    assert {result.token_accuracy for result in results} == {results[0].token_accuracy}
    assert [result.loss for result in results] == pytest.approx([results[0].loss] * 3, rel=1e-6)
    assert results[0].examples == len(SUMS)


def test_lora_dropout_is_off_meanwhile_and_on_afterwards(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_phi, LoraSpec(rank=4, dropout=0.5))
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training
    scores = {evaluate(model, examples, step=0, token_budget=500, check_stop=never_stop).loss for _ in range(2)}
    assert len(scores) == 1
    assert model.peft.training


def test_can_be_stopped_between_micro_batches(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training

    def stop() -> None:
        raise Stopped

    model = make_model(tiny_phi)
    with pytest.raises(Stopped):
        evaluate(model, examples, step=0, token_budget=64, check_stop=stop)
    assert model.peft.training


def test_of_no_example_and_of_no_weight_there_is_no_loss(tmp_path: Path, tiny_phi: Path, make_model: MakeModel) -> None:
    answer = {"role": "assistant", "content": "2", "weight": 0}
    weightless = {"messages": [{"role": "user", "content": "1+1="}, answer]}
    for validation, examples in (([], 0), ([weightless], 1)):
        held_out = render(tmp_path, tiny_phi, SUMS, validation=validation).held_out
        found = evaluate(make_model(tiny_phi), held_out, step=1, token_budget=500, check_stop=never_stop)
        assert (found.examples, found.tokens) == (examples, 0)
        assert found.loss is found.token_accuracy is None
