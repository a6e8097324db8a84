from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import SUMS, render
from worker.training.data.examples import ExampleSet
from worker.training.model import loss as loss_module
from worker.training.model.lora import LoraModel
from worker.training.model.loss import weighted_loss
from worker.training.process.loss_sums import LossSums

Gradients = dict[str, Tensor]


def _gradients(model: LoraModel) -> Gradients:
    found = {}
    for name, parameter in model.parameters.items():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
        parameter.grad = None
    return found


def _ours(model: LoraModel, examples: ExampleSet, token_budget: int) -> tuple[LossSums, Gradients]:
    """Loss and gradient of one step over all examples, cut into micro-batches under the budget."""
    total_weight, sums = float(examples.weights.sum(dtype="float64")), LossSums()
    for members in model.pack(examples.lengths.tolist(), token_budget):
        batch = model.collate([examples[member] for member in members])
        hidden_KH = model.hidden_states(batch)
        loss, part = weighted_loss(hidden_KH, model.head, batch, total_weight, kernels=model.kernels)
        loss.backward()
        sums.add(part)
    return sums, _gradients(model)


def _reference(model: LoraModel, examples: ExampleSet) -> tuple[float, Gradients]:
    """The same by definition: one example at a time, all logits, all positions."""
    weighted, weight = torch.zeros(()), 0.0
    for index in range(len(examples)):
        ids_T = torch.tensor(examples[index].ids_T, dtype=torch.int64)
        weights_T = torch.tensor(examples[index].weights_T)
        logprobs_TV = model.peft(input_ids=ids_T[None]).logits[0, :-1].log_softmax(-1)
        nll_T = -logprobs_TV.gather(1, ids_T[1:, None]).squeeze(1)
        weighted = weighted + (nll_T * weights_T[1:]).sum()
        weight += float(weights_T[1:].sum())
    loss = weighted / weight
    loss.backward()
    return float(loss.detach()), _gradients(model)


def _assert_close(ours: Gradients, expected: Gradients) -> None:
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("prompt_loss_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("token_budget", [1, 64, 300, 100_000])
def test_a_step_is_normalised_by_its_own_weight_however_it_is_cut(
    tmp_path: Path, tiny_phi: Path, make_model: MakeModel, prompt_loss_weight: float, token_budget: int
) -> None:
    model = make_model(tiny_phi)
    examples = render(tmp_path, tiny_phi, SUMS, validation=[], prompt_loss_weight=prompt_loss_weight).training
    expected_loss, expected = _reference(model, examples)
    sums, gradients = _ours(model, examples, token_budget)
    assert sums.loss == pytest.approx(expected_loss, rel=1e-5)
    _assert_close(gradients, expected)


def test_a_tied_head_gives_the_same_gradients(tmp_path: Path, tiny_llama: Path, make_model: MakeModel) -> None:
    model = make_model(tiny_llama)
    examples = render(tmp_path, tiny_llama, SUMS, validation=[]).training
    _, expected = _reference(model, examples)
    _assert_close(_ours(model, examples, 200)[1], expected)


def test_completion_only_loss_is_that_of_labels_minus_100(
    tmp_path: Path, tiny_phi: Path, make_model: MakeModel
) -> None:
    """The oracle: transformers' own loss and model, its own activation and its own shift, over a padded batch."""
    model = make_model(tiny_phi, random_b=False)
    examples = render(tmp_path, tiny_phi, SUMS, validation=[]).training
    width = int(examples.lengths.max())
    ids_BT = torch.zeros((len(examples), width), dtype=torch.int64)
    labels_BT, mask_BT = torch.full_like(ids_BT, -100), torch.zeros_like(ids_BT)
    for row in range(len(examples)):
        example = examples[row]
        length = len(example.ids_T)
        ids_BT[row, :length] = torch.tensor(example.ids_T)
        mask_BT[row, :length] = 1
        trained = torch.tensor(example.is_completion_T)
        labels_BT[row, :length][trained] = ids_BT[row, :length][trained]
    reference = AutoModelForCausalLM.from_pretrained(tiny_phi, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    assert _ours(model, examples, 200)[0].loss == pytest.approx(float(expected), rel=1e-5)


class TestWeightedLoss:
    def test_prompt_tokens_carry_no_loss_at_weight_zero_and_all_at_one(
        self, tmp_path: Path, tiny_phi: Path, make_model: MakeModel
    ) -> None:
        model = make_model(tiny_phi)
        line = {"prompt": "abcdef", "completion": "gh"}
        touched = {}
        for weight in (0.0, 1.0):
            example = render(tmp_path, tiny_phi, [line], validation=[], prompt_loss_weight=weight).training[0]
            batch = model.collate([example])
            hidden_KH = model.hidden_states(batch).detach().requires_grad_()
            weighted_loss(hidden_KH, model.head, batch, total_weight=float(batch.weights_K.sum()))[0].backward()
            assert hidden_KH.grad is not None
            touched[weight] = batch.positions_K[hidden_KH.grad.abs().sum(-1).nonzero().flatten()].tolist()
        assert touched == {0.0: [5, 6, 7], 1.0: [0, 1, 2, 3, 4, 5, 6, 7]}

    def test_chunks_do_not_change_the_gradient(
        self, tmp_path: Path, tiny_phi: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_model(tiny_phi)
        examples = render(tmp_path, tiny_phi, SUMS, validation=[], prompt_loss_weight=0.5).training
        whole, expected = _ours(model, examples, 10_000)
        monkeypatch.setattr(loss_module, "CHUNK_ROWS", 7)
        chunked, gradients = _ours(model, examples, 10_000)
        assert chunked.loss == pytest.approx(whole.loss, rel=1e-6)
        _assert_close(gradients, expected)

    def test_completion_loss_does_not_depend_on_the_prompts_weight(
        self, tmp_path: Path, tiny_phi: Path, make_model: MakeModel
    ) -> None:
        model = make_model(tiny_phi)
        sums = [
            _ours(model, render(tmp_path, tiny_phi, SUMS, validation=[], prompt_loss_weight=w).training, 500)[0]
            for w in (0.0, 1.0)
        ]
        assert sums[0].completion_loss == pytest.approx(sums[0].loss)
        assert sums[1].completion_loss == pytest.approx(sums[0].completion_loss, rel=1e-5)
        assert sums[1].loss != pytest.approx(sums[0].loss, rel=1e-3)
        assert sums[1].completion_tokens == sums[0].completion_tokens

    def test_accuracy_counts_the_most_likely_tokens(
        self, tmp_path: Path, tiny_phi: Path, make_model: MakeModel
    ) -> None:
        model = make_model(tiny_phi)
        examples = render(tmp_path, tiny_phi, SUMS[:3], validation=[]).training
        batch = model.collate([examples[index] for index in range(3)])
        with torch.no_grad():
            model.head.bias[batch.targets_K[0]] = 1e4
            sums = weighted_loss(model.hidden_states(batch), model.head, batch, 1.0)[1]
        expected = int((batch.targets_K == batch.targets_K[0]).sum())
        assert sums.completion_correct == expected
        assert sums.token_accuracy == expected / len(batch.targets_K)
