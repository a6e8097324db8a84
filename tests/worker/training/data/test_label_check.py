from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import LabelsMismatch
from tests.worker.training.run_folders import render
from worker.training.data.batches import MicroBatch, collate
from worker.training.data.examples import ExampleSet
from worker.training.data.label_check import require_labels

LINES = [{"prompt": "ab", "completion": "cd"}, {"prompt": "efgh", "completion": "i"}, {"prompt": "", "completion": "j"}]


@pytest.fixture(params=[0.0, 0.5])
def examples(request: pytest.FixtureRequest, tmp_path: Path, tiny_phi: Path) -> ExampleSet:
    weight: float = request.param
    return render(tmp_path, tiny_phi, LINES, validation=[], prompt_loss_weight=weight).training


def _check(examples: ExampleSet, change: Callable[[MicroBatch], MicroBatch]) -> None:
    members = [examples[index] for index in range(len(examples))]
    require_labels(change(collate(members, torch.device("cpu"))), members, examples.lines.tolist())


def test_what_the_trainer_lays_out_passes(examples: ExampleSet) -> None:
    _check(examples, lambda batch: batch)


def _not_shifted(batch: MicroBatch) -> MicroBatch:
    return replace(batch, positions_K=batch.positions_K + 1)


def _shifted_twice(batch: MicroBatch) -> MicroBatch:
    return replace(batch, targets_K=torch.roll(batch.targets_K, -1))


def _of_the_completion_alone(batch: MicroBatch) -> MicroBatch:
    """Targets laid out from the first input on, as for a model with an encoder."""
    return replace(batch, positions_K=torch.arange(len(batch.positions_K)))


def _one_left_out(batch: MicroBatch) -> MicroBatch:
    return replace(
        batch,
        positions_K=batch.positions_K[1:],
        targets_K=batch.targets_K[1:],
        weights_K=batch.weights_K[1:],
        is_completion_K=batch.is_completion_K[1:],
    )


def _other_inputs(batch: MicroBatch) -> MicroBatch:
    ids_N = batch.input_ids_N.clone()
    ids_N[0] += 1
    return replace(batch, input_ids_N=ids_N)


def _places_of_one_text(batch: MicroBatch) -> MicroBatch:
    """Places that go on across segments, as of a packed batch whose positions were forgotten."""
    return replace(batch, places_N=torch.arange(len(batch.places_N)) + 1)


def _other_weights(batch: MicroBatch) -> MicroBatch:
    return replace(batch, weights_K=batch.weights_K * 0.9)


@pytest.mark.parametrize(
    "defect",
    [
        _not_shifted,
        _shifted_twice,
        _one_left_out,
        _other_inputs,
        _places_of_one_text,
        _other_weights,
    ],
)
def test_a_batch_that_would_train_other_tokens_is_refused(
    examples: ExampleSet, defect: Callable[[MicroBatch], MicroBatch]
) -> None:
    with pytest.raises(LabelsMismatch) as caught:
        _check(examples, defect)
    assert 1 in caught.value.lines


def test_targets_laid_out_beside_the_prompt_are_refused(tmp_path: Path, tiny_phi: Path) -> None:
    examples = render(tmp_path, tiny_phi, LINES, validation=[]).training
    with pytest.raises(LabelsMismatch) as caught:
        _check(examples, _of_the_completion_alone)
    assert 1 in caught.value.lines
