"""Against transformers' Trainer and TRL's SFTTrainer: the same loss, gradient and adapter from the same rows.

Both peers get labels that are masked on the prompt, rows of unequal length, and steps of three micro-batches,
of which the last step has only some.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from core.jobs.spec import LoraSpec
from core.settings import Settings
from tests.harness.golden_files import IGNORE_INDEX
from tests.harness.models.kernels import home_with_kernels
from tests.worker.training.conftest import MakeModel
from tests.worker.training.reference_model import adapter_of, reference_model, relative_error, take_gradient
from tests.worker.training.run_folders import SUMS, never_stop, render, train, write_run
from worker.models.loading import load_base_model
from worker.trainer_process.messages import StepDone
from worker.trainer_process.run_folder import ADAPTER
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.model.lora import add_lora
from worker.training.native.build import load
from worker.training.output.adapter_files import restore_adapter
from worker.training.step import GradientAccumulator

# An old name of transformers' that TRL still sets, in the first argument class made
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning:transformers")

BATCH_SIZE, MICRO_BATCH_SIZE = 6, 2  # of the peers; three micro-batches are one step
LINES = SUMS[:23]  # steps of 6, 6, 6 and 5 examples
TOTAL_STEPS = 4
TOLERANCE = 1e-5  # relative, for losses, gradients and adapters alike
MAX_GRAD_NORM = 1.0  # longer gradients are scaled down to it


@dataclass
class _Watch(TrainerCallback):
    """What a peer's run did, step by step."""

    losses: list[float] = field(default_factory=lambda: [0.0])
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:  # type: ignore[override]
        found = adapter_of(model)
        self.gradients.append({name: parameter.grad.clone() for name, parameter in found.items()})  # type: ignore[union-attr]
        self.losses.append(0.0)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:  # type: ignore[override]
        if "grad_norm" in logs:
            self.norms.append(logs["grad_norm"])


def _watched(trainer: type[Trainer], watch: _Watch) -> type[Trainer]:
    class WatchedTrainer(trainer):  # type: ignore[misc,valid-type]
        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            loss: Tensor = super().training_step(*arguments, **named)
            watch.losses[-1] += float(loss)
            return loss

    return WatchedTrainer


def _rows(examples: ExampleSet, order: Sequence[int]) -> list[dict[str, list[int]]]:
    """Give the examples as both peers take them."""
    rows = []
    for index in order:
        example = examples[index]
        labels = [
            token_id if is_completion else IGNORE_INDEX
            for token_id, is_completion in zip(example.ids_T.tolist(), example.is_completion_T.tolist(), strict=True)
        ]
        rows.append({"input_ids": example.ids_T.tolist(), "labels": labels})
    return rows


def _in_order_of(plan: TrainingPlan, examples: ExampleSet) -> list[dict[str, list[int]]]:
    return _rows(examples, [index for step in range(plan.total_steps) for index in plan.members_of(step)])


def _train_peer(
    name: str,
    folder: Path,
    base: Path,
    model: nn.Module,
    rows: list[dict[str, list[int]]],
    *,
    rates: Sequence[float],
    max_grad_norm: float,
) -> _Watch:
    """Train with AdamW at these learning rates, one for each step."""
    watch = _Watch()
    optimizer = torch.optim.AdamW(adapter_of(model).values(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": MICRO_BATCH_SIZE,
        "gradient_accumulation_steps": BATCH_SIZE // MICRO_BATCH_SIZE,
        "num_train_epochs": 1,
        "max_grad_norm": max_grad_norm,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    named: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "callbacks": [watch],
        "optimizers": (optimizer, LambdaLR(optimizer, lambda step: [*rates, 0.0][step])),
    }
    if name == "transformers":
        collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE_INDEX)
        arguments = TrainingArguments(**settings)
        trainer = _watched(Trainer, watch)(args=arguments, train_dataset=rows, data_collator=collator, **named)
    else:
        trl = pytest.importorskip("trl", reason="TRL, a peer that training is compared with, is not installed")
        datasets = pytest.importorskip("datasets", reason="TRL's own kind of data sets is not installed")
        arguments = trl.SFTConfig(max_length=None, **settings)
        dataset = datasets.Dataset.from_list(rows)
        trainer = _watched(trl.SFTTrainer, watch)(args=arguments, train_dataset=dataset, **named)
    trainer.train()
    return watch


@pytest.fixture(params=["tiny_phi", "tiny_llama"])
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(params=["transformers", "trl"])
def peer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["with kernels", "with torch alone"])
def kernels_folder(request: pytest.FixtureRequest) -> Path | None:
    return Settings(home=home_with_kernels()).kernels_folder if request.param == "with kernels" else None


def test_every_steps_loss_and_gradient_are_theirs(
    tmp_path: Path, base: Path, peer: str, make_model: MakeModel, kernels_folder: Path | None
) -> None:
    kernels = None if kernels_folder is None else load(kernels_folder, torch.device("cpu"), torch.float32)
    if kernels_folder is not None and kernels is None:
        pytest.skip("this machine trains without kernels")
    model = make_model(base, kernels=kernels)
    theirs = reference_model(base, model, torch.float32)
    examples = render(tmp_path, base, LINES, validation=[]).training
    plan = TrainingPlan(len(examples), BATCH_SIZE, 1, seed=0)
    accumulator = GradientAccumulator(model, examples, plan, token_budget=128, check_stop=never_stop)
    steps = range(plan.total_steps)
    rows = _in_order_of(plan, examples)
    watch = _train_peer(peer, tmp_path / "peer", base, theirs, rows, rates=[0.0] * TOTAL_STEPS, max_grad_norm=0.0)
    assert len(watch.gradients) == len(steps) == TOTAL_STEPS
    for step in steps:
        found = accumulator.accumulate(step)
        assert found.loss.loss == pytest.approx(watch.losses[step], rel=TOLERANCE)
        assert relative_error(take_gradient(model.parameters), watch.gradients[step]) < TOLERANCE


def test_a_whole_run_ends_at_their_adapter(tmp_path: Path, base: Path, peer: str, kernels_folder: Path | None) -> None:
    lora = LoraSpec(rank=4, alpha=8)
    seed = 3
    job: dict[str, Any] = {"batch_size": BATCH_SIZE, "n_epochs": 1, "lora": lora, "seed": seed}
    run = write_run(tmp_path / "run", base, LINES, validation=[], kernels_folder=kernels_folder, **job)
    ours = train(run).of(StepDone)
    start = add_lora(load_base_model(base, dtype="float32"), lora, seed)
    theirs = reference_model(base, start, torch.float32)
    examples = render(tmp_path, base, LINES, validation=[]).training
    plan = TrainingPlan(len(examples), BATCH_SIZE, 1, seed)
    rows = _in_order_of(plan, examples)
    rates = [step.learning_rate for step in ours]
    watch = _train_peer(peer, tmp_path / "peer", base, theirs, rows, rates=rates, max_grad_norm=MAX_GRAD_NORM)
    assert [step.loss for step in ours] == pytest.approx(watch.losses[:-1], rel=TOLERANCE)
    assert [step.grad_norm for step in ours] == pytest.approx(watch.norms, rel=TOLERANCE)
    # their changes are compared, because both begin at the same A, which is much larger than what is learnt
    begun = {name: parameter.detach().clone() for name, parameter in start.parameters.items()}
    restore_adapter(start, run / ADAPTER)
    learnt = {name: parameter.detach() - begun[name] for name, parameter in start.parameters.items()}
    their_learnt = {name: parameter.detach() - begun[name] for name, parameter in adapter_of(theirs).items()}
    assert relative_error(learnt, their_learnt) < TOLERANCE
