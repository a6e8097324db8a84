"""One test for each known way of training on the wrong tokens that shows in tensors.

``tests/core/text/test_traps.py`` has those that show in text; the expected numbers stand in ``tests/golden``.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint
from core.errors import LabelsMismatch, LossNotFinite, TargetModulesUnmatched
from core.jobs.spec import LoraSpec
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.golden_files import read_golden
from tests.worker.training.conftest import MakeModel
from tests.worker.training.run_folders import SUMS, RecordingReporter, make_job, render, train, write_run
from worker.models.loading import LoadedModel, load_base_model
from worker.trainer_process.messages import StepDone
from worker.trainer_process.run_folder import ADAPTER
from worker.training.data.batches import MicroBatch, collate
from worker.training.data.examples import TokenizedExample
from worker.training.data.label_check import require_labels
from worker.training.model.lora import LoraModel, add_lora
from worker.training.model.loss import weighted_loss
from worker.training.process.loss_sums import LossSums

CPU = torch.device("cpu")


def tokenized(ids: Sequence[int], prompt_tokens: int, prompt_weight: float = 0.0) -> TokenizedExample:
    """An example from its ids, as rendering gives it to the trainer."""
    weights_T = np.full(len(ids), 1.0, dtype=np.float32)
    weights_T[:prompt_tokens] = prompt_weight
    weights_T[0] = 0.0
    return TokenizedExample(np.array(ids, dtype=np.int32), weights_T, np.arange(len(ids)) >= prompt_tokens)


def own_logits(model: LoraModel, ids: Sequence[int]) -> Tensor:
    """Give the model's own logits_TV for a text alone, by transformers' own forward."""
    with torch.no_grad():
        logits_TV: Tensor = model.peft(input_ids=torch.tensor([list(ids)])).logits[0]
    return logits_TV


@pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
def test_trap_04_after_overfitting_eight_examples_every_answer_stops_by_itself(
    tmp_path: Path, base: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(base)
    answers: dict[str, str] = read_golden("04-closing-token")["overfit"]["completions"]
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in answers.items()]
    job: dict[str, Any] = {"n_epochs": 60, "batch_size": 8, "lora": {"rank": 16, "alpha": 32}}
    run = write_run(tmp_path / "run", folder, lines, validation=lines, **job)
    [*_, last] = train(run).of(StepDone)
    assert last.trained_tokens == 60 * sum(len(answer) + 1 for answer in answers.values())
    tokenizer = TextTokenizer.from_folder(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_adapter(str(run / ADAPTER))
    given = {}
    for prompt in answers:
        fed = list(Renderer(tokenizer).prompt(prompt).ids)
        ids = model.generate(
            torch.tensor([fed]), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_id
        )[0].tolist()
        assert ids[-1] == tokenizer.eos_id, f"{prompt} never stops"
        given[prompt] = tokenizer.decode(ids[len(fed) : -1], skip_special=False)
    assert given == answers


class TestTrap05:
    """Padding is what stands behind an example, whatever its ids are."""

    @pytest.fixture
    def golden(self) -> dict[str, Any]:
        batch: dict[str, Any] = read_golden("05-padding-is-no-id")["batch"]
        return batch

    @pytest.fixture
    def examples(self, golden: dict[str, Any]) -> list[TokenizedExample]:
        return [tokenized(ids, prompt) for ids, prompt in zip(golden["ids"], golden["prompt_tokens"], strict=True)]

    def test_trap_05_an_id_that_padding_uses_stays_a_target(
        self, golden: dict[str, Any], examples: list[TokenizedExample]
    ) -> None:
        batch = collate(examples, CPU)
        assert batch.targets_K.tolist() == golden["targets"]
        padded = collate(examples, CPU, padded=True)
        assert padded.input_ids_N.view(len(examples), -1).tolist() == golden["inputs"]

    @pytest.mark.parametrize("base", ["tiny_phi", "tiny_llama"])
    def test_trap_05_an_id_that_padding_uses_stays_attended_to(
        self, examples: list[TokenizedExample], make_model: MakeModel, base: str, request: pytest.FixtureRequest
    ) -> None:
        model = make_model(request.getfixturevalue(base))
        batch = collate(examples, CPU, all_rows=True)
        with torch.no_grad():
            logits_KV = model.head(model.hidden_states(batch))
        inputs = [len(example.ids_T) - 1 for example in examples]
        for example, logits_TV in zip(examples, logits_KV.split(inputs), strict=True):
            expected_TV = own_logits(model, example.ids_T[:-1].tolist())
            assert torch.allclose(logits_TV, expected_TV, atol=1e-4)


class TestTrap07:
    """Nothing to learn is neither a loss of 0 that hides it nor a number that is none."""

    def test_trap_07_an_empty_micro_batch_adds_a_zero_that_has_a_gradient(
        self, tiny_phi: Path, make_model: MakeModel
    ) -> None:
        model = make_model(tiny_phi)
        nothing = TokenizedExample(
            np.array([5, 6, 7], dtype=np.int32), np.zeros(3, dtype=np.float32), np.zeros(3, bool)
        )
        batch = collate([nothing], CPU)
        loss, sums = weighted_loss(model.hidden_states(batch), model.head, batch, total_weight=4.0)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert (sums, sums.loss, sums.completion_loss, sums.token_accuracy) == (LossSums(), None, None, None)
        assert all(not parameter.grad.any() for parameter in model.parameters.values() if parameter.grad is not None)

    def test_trap_07_an_example_without_weights_is_left_out_and_named(self, tmp_path: Path, tiny_phi: Path) -> None:
        golden = read_golden("07-nothing-to-learn")
        data = render(tmp_path, tiny_phi, golden["lines"], validation=[])
        assert data.summary.untrained_lines == golden["left_out_lines"]
        assert int((data.training.weights > 0).sum()) == golden["trained_tokens"]
        assert not set(data.training.lines.tolist()) & set(golden["left_out_lines"])

    def test_trap_07_a_loss_that_is_no_number_fails_the_job_with_its_lines(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        healthy = LoraModel.hidden_states
        monkeypatch.setattr(LoraModel, "hidden_states", lambda *arguments: healthy(*arguments) * torch.tensor(math.inf))
        with pytest.raises(LossNotFinite, match="step 1") as caught:
            train(write_run(tmp_path / "run", tiny_phi, SUMS, validation=[]))
        assert len(caught.value.lines) == make_job().batch_size


class TestTrap08:
    """A model that knows each token's successor: the loss is 0 under the right alignment and no other."""

    GOLDEN = read_golden("08-one-shift")

    def loss_of(self, batch: MicroBatch) -> float:
        """Give the loss of a model whose hidden state is the input's one-hot and whose head is the table."""
        successor: list[int] = self.GOLDEN["successor"]
        size = len(successor)
        head = nn.Linear(size, size, bias=False).requires_grad_(False)
        head.weight.copy_(nn.functional.one_hot(torch.tensor(successor), size).T * self.GOLDEN["logit"])
        hidden_KH = nn.functional.one_hot(batch.input_ids_N[batch.positions_K], size).float()
        return float(weighted_loss(hidden_KH, head, batch, total_weight=float(batch.weights_K.sum()))[0])

    @pytest.fixture
    def example(self) -> TokenizedExample:
        return tokenized(self.GOLDEN["ids"], self.GOLDEN["prompt_tokens"])

    def test_trap_08_targets_are_shifted_once(self, example: TokenizedExample) -> None:
        batch = collate([example, example], CPU)
        assert len(batch.targets_K) == 2 * self.GOLDEN["scored"]
        assert self.loss_of(batch) == pytest.approx(self.GOLDEN["loss"], abs=1e-6)

    @pytest.mark.parametrize("shift", [-1, 1])
    def test_trap_08_one_shift_more_or_less_would_show(self, example: TokenizedExample, shift: int) -> None:
        """That this test can fail: the same batch one place off."""
        moved = TokenizedExample(np.roll(example.ids_T, shift), example.weights_T, example.is_completion_T)
        wrong = replace(collate([example], CPU), targets_K=collate([moved], CPU).targets_K)
        assert self.loss_of(wrong) == pytest.approx(self.GOLDEN["loss_of_another_token"], rel=1e-5)


class TestTrap09:
    """Labels laid out beside the prompt, as for a model with an encoder, are refused."""

    @staticmethod
    def beside(batch: MicroBatch) -> MicroBatch:
        """The same targets, predicted from the first inputs on."""
        return replace(batch, positions_K=torch.arange(len(batch.positions_K)))

    def test_trap_09_labels_laid_out_beside_the_prompt_are_refused(self) -> None:
        golden = read_golden("09-labels-are-the-inputs")["batch"]
        example = tokenized([*b"abcd", 256], prompt_tokens=2)
        batch = collate([example], CPU)
        assert batch.targets_K.tolist() == golden["targets"]
        assert batch.positions_K.tolist() == golden["positions"]
        require_labels(batch, [example], [7])
        assert self.beside(batch).positions_K.tolist() == golden["positions_beside"]
        with pytest.raises(LabelsMismatch) as caught:
            require_labels(self.beside(batch), [example], [7])
        assert caught.value.lines == (7,)

    def test_trap_09_a_run_with_such_labels_fails_before_it_learns(
        self, tmp_path: Path, tiny_phi: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        healthy = LoraModel.collate
        monkeypatch.setattr(LoraModel, "collate", lambda model, examples: self.beside(healthy(model, examples)))
        reporter = RecordingReporter()
        with pytest.raises(LabelsMismatch):
            train(write_run(tmp_path / "run", tiny_phi, SUMS, validation=[]), reporter)
        assert not reporter.of(StepDone)


@pytest.fixture(scope="session")
def narrow_phi2(phi2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phi-2 by its own config and tokenizer, all 32 layers and all rows, but random and 80 wide instead of 2560."""
    folder = tmp_path_factory.mktemp("bases") / "narrow-phi-2"
    config = AutoConfig.from_pretrained(
        phi2_folder, hidden_size=80, intermediate_size=160, num_attention_heads=4, num_key_value_heads=4
    )
    disable_progress_bar()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(phi2_folder / name, folder)
    imported = ImportedModel(
        name="narrow-phi-2",
        fingerprint=compute_fingerprint(folder),
        source=Folder(path=folder),
        context_tokens=config.max_position_embeddings,
    )
    (folder / IMPORTED_FILE).write_text(imported.model_dump_json())
    return folder


def models(name: str) -> pytest.MarkDecorator:
    """Run a test once for each base model of a golden file, as its argument ``expected``."""
    found = read_golden(name)["models"]
    return pytest.mark.parametrize("expected", found, ids=[model["model"] for model in found])


@pytest.fixture
def loaded(expected: dict[str, Any], request: pytest.FixtureRequest) -> LoadedModel:
    fixture_of = {
        "tiny-phi": "tiny_phi",
        "tiny-llama": "tiny_llama",
        "phi-2": "narrow_phi2",
        "smollm2": "smollm2_folder",
    }
    folder: Path = request.getfixturevalue(fixture_of[expected["model"]])
    return load_base_model(folder, dtype="float32")


@models("13-no-resize")
def test_trap_13_the_vocabulary_keeps_its_rows(expected: dict[str, Any], loaded: LoadedModel) -> None:
    model = add_lora(loaded, LoraSpec(rank=2), seed=0)
    embedding = loaded.model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert (embedding.num_embeddings, model.head.out_features) == (expected["rows"], expected["rows"])
    assert loaded.tokenizer.vocab_size == expected["tokens"]
    assert not any(expected["rows"] in parameter.shape for parameter in model.parameters.values())


@models("14-closing-token-is-no-padding")
def test_trap_14_the_closing_tokens_row_is_a_row_like_the_others(expected: dict[str, Any], loaded: LoadedModel) -> None:
    embedding = loaded.model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    closing = expected["closing_token"]
    assert loaded.tokenizer.eos_id == closing
    assert float(embedding.weight[closing].norm()) > 0
    embedding.weight.requires_grad_(True)
    # of the embedding's own output, because a tied one has a gradient as the head too
    embedding(torch.tensor([[65, closing, 66]])).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad[[65, closing, 66]].eq(1).all()


class TestTrap15:
    """The loss is that of the model's own logits, whatever its head has."""

    def test_trap_15_a_heads_bias_counts(self) -> None:
        golden = read_golden("15-the-heads-bias")
        head = nn.Linear(3, len(golden["bias_exp"])).requires_grad_(False)
        head.weight.zero_()
        head.bias.copy_(torch.tensor(golden["bias_exp"]).log())
        for target, bits in zip(golden["targets"], golden["loss_in_bits"], strict=True):
            batch = collate([tokenized([0, target], prompt_tokens=1)], CPU)
            loss, _ = weighted_loss(torch.randn(1, 3), head, batch, total_weight=1.0)
            assert float(loss) == pytest.approx(bits * math.log(2), rel=1e-6)

    @pytest.mark.parametrize(("base", "is_tied"), [("tiny_phi", False), ("tiny_llama", True)])
    def test_trap_15_the_loss_is_that_of_the_models_own_logits(
        self, tmp_path: Path, make_model: MakeModel, base: str, is_tied: bool, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(base)
        model = make_model(folder)
        assert (model.head.weight is model.peft.get_input_embeddings().weight) == is_tied
        assert (model.head.bias is not None and bool(model.head.bias.any())) == (not is_tied)
        examples = render(tmp_path, folder, SUMS[:4], validation=[], prompt_loss_weight=0.5).training
        for index in range(len(examples)):
            example = examples[index]
            logprobs_TV = own_logits(model, example.ids_T.tolist())[:-1].log_softmax(-1)
            nll_T = -logprobs_TV.gather(1, torch.tensor(example.ids_T[1:, None], dtype=torch.int64)).squeeze(1)
            weights_T = torch.tensor(example.weights_T[1:])
            batch = collate([example], CPU)
            with torch.no_grad():
                ours, _ = weighted_loss(model.hidden_states(batch), model.head, batch, 1.0)
            assert float(ours) == pytest.approx(float((nll_T * weights_T).sum()), rel=1e-5)


class TestTrap30:
    """Which layers are adapted is exactly what was asked for."""

    @models("30-target-modules")
    def test_trap_30_every_linear_layer_but_the_head_is_adapted(
        self, expected: dict[str, Any], loaded: LoadedModel
    ) -> None:
        model = add_lora(loaded, LoraSpec(rank=2), seed=0)
        adapted = [module.removesuffix(".lora_A.weight") for module in model.parameters if "lora_A" in module]
        assert len(adapted) == expected["count"]
        assert sorted({module.rpartition(".")[2] for module in adapted}) == expected["names"]
        assert model.lora.target_modules == tuple(expected["names"])

    @pytest.mark.parametrize("name", read_golden("30-target-modules")["unmatched"])
    def test_trap_30_a_name_that_matches_nothing_is_refused(self, tiny_phi: Path, name: str) -> None:
        with pytest.raises(TargetModulesUnmatched, match=name):
            add_lora(load_base_model(tiny_phi, dtype="float32"), LoraSpec(target_modules=("q_proj", name)), seed=0)
