"""One test for each known way in which the objective or the optimizer is not the one that was asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.base_models.registry import BUILT_IN, BaseModelEntry, Folder
from core.jobs.spec import LoraSpec
from tests.worker.training.conftest import MakeModel
from tests.worker.training.reference_model import (
    Gradient,
    reference_model,
    relative_error,
    step_by_definition,
    take_gradient,
)
from tests.worker.training.run_folders import SUMS, Line, make_job, never_stop, render, train, write_run
from worker.models.loading import load_base_model
from worker.trainer_process.messages import Evaluated, StepDone
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.measure.evaluation import evaluate
from worker.training.model.lora import LoraModel, add_lora
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.step import GradientAccumulator, StepSums

ONE_EXAMPLE = 1  # tokens of a micro-batch, so that every example has its own
TOKEN_BUDGETS = (64, 300, 100_000)  # from few examples in a micro-batch to all of them
SAME, TRUE = 1e-6, 5e-6  # relative: float32 against itself in another order of summation, and against float64
TRL_LEARNING_RATE = 2e-5  # its default, which is one for all weights of a model

# Turns, of which one is not trained on, beside prompts and completions
CONVERSATIONS: tuple[Line, ...] = tuple(
    {
        "messages": [
            {"role": "user", "content": f"Count to {n}."},
            {"role": "assistant", "content": " ".join(map(str, range(n + 1))), "weight": n % 2},
            {"role": "user", "content": "And back."},
            {"role": "assistant", "content": " ".join(map(str, range(n, -1, -1)))},
        ]
    }
    for n in range(2, 6)
)


@pytest.fixture(params=["tiny_phi", "tiny_llama"])
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def gradient_of(
    model: LoraModel, examples: ExampleSet, token_budget: int, batch_size: int | None = None, step: int = 0
) -> tuple[StepSums, Gradient]:
    """Give the gradient of a step, cut under the budget; all examples are one step by default."""
    plan = TrainingPlan(len(examples), batch_size or len(examples), 1, seed=0)
    accumulator = GradientAccumulator(model, examples, plan, token_budget, never_stop)
    return accumulator.accumulate(step), take_gradient(model.parameters)


def truth_of(
    base: Path, model: LoraModel, examples: ExampleSet, members: Sequence[int] | None = None
) -> tuple[float, Gradient]:
    """Give the loss and the gradient in float64, by transformers and PEFT alone."""
    chosen = range(len(examples)) if members is None else members
    return step_by_definition(reference_model(base, model, torch.float64), [examples[index] for index in chosen])


def test_trap_22_the_first_steps_loss_is_that_of_the_evaluation_before_it(tmp_path: Path, tiny_phi: Path) -> None:
    """tiny_phi's config asks for a residual dropout of 0.1, as Phi-2's does."""
    reporter = train(write_run(tmp_path / "run", tiny_phi, validation=SUMS, batch_size=len(SUMS), n_epochs=1))
    before, first = reporter.of(Evaluated)[0], reporter.of(StepDone)[0]
    assert before.step == 0
    assert first.completion_loss == pytest.approx(before.loss, rel=SAME)
    assert first.token_accuracy == before.token_accuracy


@pytest.mark.parametrize("token_budget", TOKEN_BUDGETS)
@pytest.mark.parametrize("step", [0, 2], ids=["a whole step", "the short last step"])
def test_trap_23_the_gradient_is_the_steps_whatever_its_micro_batches(
    tmp_path: Path, base: Path, make_model: MakeModel, step: int, token_budget: int
) -> None:
    model = make_model(base)
    examples = render(tmp_path, base, SUMS, validation=[]).training
    members = TrainingPlan(len(examples), 10, 1, seed=0).members_of(step)
    assert (len(members), len({len(examples[index].ids_T) for index in members}) > 2) == ((10, 10, 4)[step], True)
    loss, truth = truth_of(base, model, examples, members)
    _, alone = gradient_of(model, examples, ONE_EXAMPLE, batch_size=10, step=step)
    found, gradient = gradient_of(model, examples, token_budget, batch_size=10, step=step)
    assert found.loss.loss == pytest.approx(loss, rel=SAME)
    assert relative_error(gradient, alone) < SAME
    assert relative_error(gradient, truth) < TRUE


@pytest.mark.parametrize("token_budget", TOKEN_BUDGETS)
def test_trap_24_a_first_token_is_no_target_and_is_not_counted(
    tmp_path: Path, base: Path, make_model: MakeModel, token_budget: int
) -> None:
    """With a prompt of weight 1 every example begins with a token that would be trained on."""
    model = make_model(base)
    examples = render(tmp_path, base, SUMS, validation=[], prompt_loss_weight=1.0).training
    targets = len(examples.ids) - len(examples)
    found, _ = gradient_of(model, examples, token_budget)
    assert (found.loss.weight, found.loss.scored_tokens) == (targets, targets)
    assert found.loss.loss == pytest.approx(truth_of(base, model, examples)[0], rel=SAME)


@pytest.mark.parametrize("prompt_loss_weight", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("lines", [SUMS[::3], CONVERSATIONS], ids=["prompts and completions", "conversations"])
def test_trap_25_no_loss_option_goes_past_the_steps_normaliser(
    tmp_path: Path, base: Path, make_model: MakeModel, lines: Sequence[Line], prompt_loss_weight: float
) -> None:
    model = make_model(base)
    examples = render(tmp_path, base, lines, validation=[], prompt_loss_weight=prompt_loss_weight).training
    loss, truth = truth_of(base, model, examples)
    for token_budget in (64, 100_000):
        found, gradient = gradient_of(model, examples, token_budget)
        assert found.loss.loss == pytest.approx(loss, rel=SAME)
        assert relative_error(gradient, truth) < TRUE


@pytest.mark.parametrize("prompt_loss_weight", [0.0, 1.0])
def test_trap_26_a_score_is_a_mean_over_tokens_whatever_the_batches_and_the_prompts_weight(
    tmp_path: Path, base: Path, make_model: MakeModel, prompt_loss_weight: float
) -> None:
    model = make_model(base)
    loss, _ = truth_of(base, model, render(tmp_path, base, SUMS, validation=[]).training)
    examples = render(tmp_path, base, SUMS, validation=[], prompt_loss_weight=prompt_loss_weight).training
    for token_budget in (ONE_EXAMPLE, *TOKEN_BUDGETS):
        score = evaluate(model, examples, step=0, token_budget=token_budget, check_stop=never_stop)
        assert score.loss == pytest.approx(loss, rel=SAME)
        assert score.tokens == int(examples.is_completion.sum())


class TestTrap27:
    """Steps far smaller than a weight's last bfloat16 digit add up."""

    STEPS, RATE = 1000, 2e-6

    @staticmethod
    def gradient(start: Tensor, step: int) -> Tensor:
        """A gradient that mostly points one way and trembles, smaller than what is clipped."""
        return (start.sign() + 0.5 * torch.sin(100 * start + step)) * 1e-3

    def adamw(self, start: Tensor) -> Tensor:
        """Give the sum of all steps by AdamW's published formula (Loshchilov and Hutter 2019), in float64."""
        mean, square, moved = (torch.zeros_like(start) for _ in range(3))
        for step in range(self.STEPS):
            gradient = self.gradient(start, step)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
            moved -= self.RATE * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        return moved

    def test_trap_27_a_thousand_tiny_steps_end_where_float64_ends(self, tiny_phi: Path) -> None:
        model = add_lora(load_base_model(tiny_phi, dtype="bfloat16"), LoraSpec(rank=4), seed=0)
        chosen = {name: parameter for name, parameter in model.parameters.items() if "layers.0.mlp" in name}
        start = {name: parameter.detach().double() for name, parameter in chosen.items()}
        job = make_job(learning_rate=self.RATE, lr_scheduler_type="constant", warmup_ratio=0.0)
        optimizer = AdapterOptimizer(chosen, job, self.STEPS)
        for step in range(self.STEPS):
            for name, parameter in chosen.items():
                parameter.grad = self.gradient(start[name], step).to(parameter.dtype)
            optimizer.clip()
            assert optimizer.step(step) == self.RATE
        moved = {name: parameter.detach().double() - start[name] for name, parameter in chosen.items()}
        assert relative_error(moved, {name: self.adamw(tensor) for name, tensor in start.items()}) < 1e-3

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_trap_27_adapters_are_float32_whatever_the_base_is(self, base: Path, dtype: Any) -> None:
        model = add_lora(load_base_model(base, dtype=dtype), LoraSpec(rank=4), seed=0)
        assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}


def test_trap_31_by_default_nothing_is_drawn_while_training(tmp_path: Path, base: Path, make_model: MakeModel) -> None:
    model = make_model(base, LoraSpec())
    assert model.lora.dropout == 0
    examples = render(tmp_path, base, SUMS, validation=[]).training
    before = torch.random.get_rng_state()
    _, gradient = gradient_of(model, examples, 64)
    torch.random.set_rng_state(before)
    plan = TrainingPlan(
        len(examples), len(examples), 1, seed=99
    )  # the same examples, but other draws and another order
    GradientAccumulator(model, examples, plan, 100_000, never_stop).accumulate(0)
    assert relative_error(take_gradient(model.parameters), gradient) < SAME


class TestTrap32:
    """The learning rate is one for adapters, not one that was carried over from training all weights."""

    @pytest.mark.parametrize(
        "entry", [*BUILT_IN, BaseModelEntry(name="new", source=Folder(path=Path("/new")))], ids=lambda entry: entry.name
    )
    def test_trap_32_the_default_rate_is_ten_times_that_for_all_weights(self, entry: BaseModelEntry) -> None:
        assert 10 * TRL_LEARNING_RATE <= entry.learning_rate <= 100 * TRL_LEARNING_RATE

    @pytest.mark.slow
    def test_trap_32_at_the_default_rate_four_examples_are_soon_known_by_heart(
        self, tmp_path: Path, smollm2_folder: Path
    ) -> None:
        [entry] = [entry for entry in BUILT_IN if entry.name == smollm2_folder.name]
        words = ("oak", "granite", "violin", "harbour")
        lines = [{"prompt": f"Item {n}:", "completion": f" {word}"} for n, word in enumerate(words)]
        run = write_run(
            tmp_path / "run",
            smollm2_folder,
            lines,
            validation=[],
            dtype="auto",
            batch_size=4,
            n_epochs=14,
            learning_rate=entry.learning_rate,
            lora=LoraSpec(),
        )
        losses = [step.loss for step in train(run).of(StepDone)]
        assert losses[0] > 1
        assert losses[-1] < 0.01


def test_trap_39_a_step_keeps_gradients_of_the_adapter_and_of_nothing_else(
    tmp_path: Path, base: Path, make_model: MakeModel
) -> None:
    """Frozen weights in one unit with trained ones would take a gradient's memory each, whatever is done with it."""
    model = make_model(base)
    examples = render(tmp_path, base, SUMS, validation=[]).training
    plan = TrainingPlan(len(examples), len(examples), 1, seed=0)
    GradientAccumulator(model, examples, plan, 300, never_stop).accumulate(0)
    with_gradient = {id(parameter) for parameter in model.peft.parameters() if parameter.grad is not None}
    assert with_gradient == {id(parameter) for parameter in model.parameters.values()}
    adapter_values = sum(p.numel() for name, p in model.peft.named_parameters() if ".lora_" in name)
    assert sum(parameter.numel() for parameter in model.parameters.values()) == adapter_values
