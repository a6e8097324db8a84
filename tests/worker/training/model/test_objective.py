"""The dial between the two classic objectives, on the real logits of a pretrained model and real text."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.harness.golden_files import IGNORE_INDEX
from tests.worker.training.run_folders import Line, render
from worker.models.loading import LoadedModel, load_base_model
from worker.training.data.batches import collate
from worker.training.data.examples import TokenizedExample
from worker.training.model.loss import weighted_loss
from worker.training.process.loss_sums import LossSums

LINES: dict[str, Line] = {
    "label": {"prompt": "Question: What is the capital of France?\nAnswer:", "completion": " Paris"},
    "translation": {"prompt": "Translate into German: good morning ->", "completion": " guten Morgen 🙂"},
    "description": {
        "prompt": "name[Alimentum], area[city centre]\n",
        "completion": "Alimentum is in the city centre.\n",
    },
    "conversation": {
        "messages": [
            {"role": "user", "content": "Say something."},
            {"role": "assistant", "content": "Something."},
            {"role": "user", "content": "And again?"},
            {"role": "assistant", "content": "Something, again."},
        ]
    },
}
BETWEEN = (0.01, 0.37, 0.9)


@pytest.fixture(scope="module")
def smollm2_model(smollm2_folder: Path) -> LoadedModel:
    return load_base_model(smollm2_folder, dtype="float32")


@pytest.fixture(
    params=[
        "label",
        pytest.param("translation", marks=pytest.mark.slow),
        pytest.param("description", marks=pytest.mark.slow),
        "conversation",
    ]
)
def line(request: pytest.FixtureRequest) -> Line:
    return LINES[request.param]


def _example(folder: Path, base: Path, line: Line, prompt_loss_weight: float) -> TokenizedExample:
    return render(folder, base, [line], validation=[], prompt_loss_weight=prompt_loss_weight).training[0]


def _hidden(loaded: LoadedModel, example: TokenizedExample) -> Tensor:
    """Run the decoder over all ids but the last; how much each weighs does not matter to it."""
    ids_BT = torch.tensor(example.ids_T[None, :-1], dtype=torch.int64)
    with torch.no_grad():
        hidden_BTH: Tensor = loaded.model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
    return hidden_BTH[0]


def _sums(loaded: LoadedModel, hidden_TH: Tensor, example: TokenizedExample) -> LossSums:
    head = loaded.model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    batch = collate([example], loaded.device)
    return weighted_loss(hidden_TH[batch.positions_K], head, batch, total_weight=1.0)[1]


def _transformers_loss(loaded: LoadedModel, ids_BT: Tensor, labels_BT: Tensor) -> float:
    with torch.no_grad():
        return float(loaded.model(input_ids=ids_BT, labels=labels_BT, use_cache=False).loss)


def test_weight_zero_is_transformers_loss_of_labels_masked_on_the_prompt(
    tmp_path: Path, smollm2_folder: Path, smollm2_model: LoadedModel, line: Line
) -> None:
    example = _example(tmp_path, smollm2_folder, line, 0.0)
    ids_BT = torch.tensor(example.ids_T[None], dtype=torch.int64)
    labels_BT = ids_BT.masked_fill(~torch.tensor(example.is_completion_T[None]), IGNORE_INDEX)
    expected = _transformers_loss(smollm2_model, ids_BT, labels_BT)
    assert _sums(smollm2_model, _hidden(smollm2_model, example), example).loss == pytest.approx(expected, rel=1e-5)


def test_weight_one_is_transformers_loss_of_labels_that_are_the_inputs(
    tmp_path: Path, smollm2_folder: Path, smollm2_model: LoadedModel, line: Line
) -> None:
    example = _example(tmp_path, smollm2_folder, line, 1.0)
    ids_BT = torch.tensor(example.ids_T[None], dtype=torch.int64)
    expected = _transformers_loss(smollm2_model, ids_BT, ids_BT)
    assert _sums(smollm2_model, _hidden(smollm2_model, example), example).loss == pytest.approx(expected, rel=1e-5)


def test_between_them_the_weighted_sum_is_a_straight_line(
    tmp_path: Path, smollm2_folder: Path, smollm2_model: LoadedModel, line: Line
) -> None:
    hidden_TH = _hidden(smollm2_model, _example(tmp_path, smollm2_folder, line, 1.0))

    def objective(weight: float) -> LossSums:
        return _sums(smollm2_model, hidden_TH, _example(tmp_path, smollm2_folder, line, weight))

    nothing, everything = objective(0.0), objective(1.0)
    assert everything.weighted_nll > 1.1 * nothing.weighted_nll
    for weight in BETWEEN:
        part = objective(weight)
        on_the_line = nothing.weighted_nll + weight * (everything.weighted_nll - nothing.weighted_nll)
        assert part.weighted_nll == pytest.approx(on_the_line, rel=1e-5)
        assert part.weight == pytest.approx(nothing.weight + weight * (everything.weight - nothing.weight), rel=1e-6)
        assert part.completion_nll == pytest.approx(nothing.weighted_nll, rel=1e-5)
