"""Our trainer on the benchmark's rows, put together as ``worker.training.run`` does it, without files and messages."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate
from pathlib import Path

import numpy as np

from benchmarks.host.number_types import probe_number_types
from benchmarks.training.adapters import ALPHA, RANK
from benchmarks.training.measurement import MeasurementRequest, StepClock
from benchmarks.training.roofline import Roofline
from benchmarks.training.rows import TokenRow
from core.jobs.spec import FileRef, JobSpec, LoraSpec
from core.settings import Settings
from worker.models.loading import load_base_model
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.model.ablations import ALL, Techniques
from worker.training.model.lora import add_lora
from worker.training.model.memory import choose_token_budget
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.native.build import load
from worker.training.output.adapter_files import save_adapter
from worker.training.step import GradientAccumulator


def as_examples(rows: Sequence[TokenRow]) -> ExampleSet:
    """Give the rows as the trainer holds them: weight 1 on the completion, 0 on the prompt."""
    is_completion = np.array([bit for row in rows for bit in row.completion_mask], dtype=np.bool_)
    return ExampleSet(
        ids=np.array([i for row in rows for i in row.ids], dtype=np.int32),
        weights=is_completion.astype(np.float32),
        is_completion=is_completion,
        offsets=np.array([0, *accumulate(len(row.ids) for row in rows)], dtype=np.int64),
        lines=np.arange(1, len(rows) + 1, dtype=np.int64),
    )


def make_plan(request: MeasurementRequest, n_examples: int) -> TrainingPlan:
    """Give the steps of the one epoch."""
    return TrainingPlan(n_examples, request.rows_per_step, 1, request.seed)


def in_our_order(request: MeasurementRequest, rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Put the rows in the order in which ours trains on them, for rivals that keep the order they are given."""
    plan = make_plan(request, len(rows))
    return [rows[member] for step in range(plan.total_steps) for member in plan.members_of(step)]


def choose_techniques(request: MeasurementRequest) -> Techniques:
    """Give those that the request leaves on."""
    return reduce(Techniques.without, request.without, ALL)


def train(
    request: MeasurementRequest, rows: Sequence[TokenRow], clock: StepClock, adapter: Path
) -> Callable[[], Roofline]:
    """Train one epoch, leave the adapter in a folder, and give what finds out how fast this could have been."""
    job = make_job(request.base, request.targets, request.rows_per_step, request.learning_rate, request.seed, len(rows))
    base = load_base_model(request.base_folder, dtype=request.dtype)
    techniques = choose_techniques(request)
    kernels = load(Settings().kernels_folder, base.device, base.dtype) if techniques.own_kernels else None
    model = add_lora(base, job.lora, request.seed, techniques, kernels)
    plan = make_plan(request, len(rows))
    optimizer = AdapterOptimizer(model.parameters, job, plan.total_steps)
    budget = request.token_budget or choose_token_budget(model)
    examples = as_examples(rows)
    gradient = GradientAccumulator(model, examples, plan, budget, lambda: None)
    for step in range(plan.total_steps):
        clock.begin_step()
        gradient.accumulate(step)
        optimizer.clip()
        optimizer.step(step)
        clock.end_step()
    save_adapter(model, adapter)
    return partial(Roofline.measure, model, examples, plan, probe_number_types())


def make_job(
    base: str, targets: Sequence[str], rows_per_step: int, learning_rate: float, seed: int, n_examples: int
) -> JobSpec:
    """Describe the run as a job does. Of the rate's course: linear to 0 without warm-up, as the rivals have it."""
    return JobSpec(
        base_model=Path(base).name,
        training_file=FileRef(id="rows", sha256="0" * 64, examples=n_examples, file_type="jsonl"),
        validation_file=None,
        n_epochs=1,
        batch_size=rows_per_step,
        learning_rate=learning_rate,
        learning_rate_multiplier=1.0,
        lora=LoraSpec(rank=RANK, alpha=ALPHA, target_modules=tuple(targets)),
        prompt_loss_weight=0.0,
        train_on="all_assistant",
        prompt_format=None,
        max_length=2048,
        over_length="error",
        seed=seed,
        warmup_ratio=0.0,
    )
