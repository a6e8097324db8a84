"""Trains some adapters in one process, in lock-step: ``python -m benchmarks.training.together REQUEST``.

Put together as ``worker.training.together`` does it, without files and messages. The adapters differ in seed and
learning rate, as an experiment's do; each sees all rows once.
"""

import os
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.training.measurement import TogetherRequest, TrainedTogether
from benchmarks.training.ours import as_examples, make_job
from benchmarks.training.rows import Rows
from core.jobs.spec import JobSpec
from core.settings import Settings
from worker.models.loading import load_base_model
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.lockstep import SharedWork, run_in_lockstep
from worker.training.model.lora import LoraModel, add_beside, add_lora
from worker.training.model.memory import choose_token_budget
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.native.build import load
from worker.training.step import GradientAccumulator


def train_together(request: TogetherRequest) -> TrainedTogether:
    """Do what is asked, in this process."""
    base = load_base_model(Path(request.base))
    kernels = load(Settings().kernels_folder, base.device, base.dtype)
    rows = Rows.read(Path(request.rows)).training[: request.examples]
    examples = as_examples(rows)
    jobs = [
        make_job(request.base, request.targets, request.rows_per_step, 1e-3 / (1 + arm), arm, len(rows))
        for arm in range(request.arms)
    ]
    models = [add_lora(base, jobs[0].lora, jobs[0].seed, kernels=kernels)]
    models += [add_beside(models[0], job.lora, job.seed) for job in jobs[1:]]
    works = [_train(model, job, examples) for model, job in zip(models, jobs, strict=True)]
    startup_s, began_s = time.time() - request.began_unix_s, time.perf_counter()
    endings = run_in_lockstep(works)
    seconds = time.perf_counter() - began_s
    for ending in endings:
        if ending.error is not None:
            raise ending.error
    return TrainedTogether(
        arms=request.arms,
        tokens=request.arms * len(examples.ids),
        startup_s=startup_s,
        seconds=seconds,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        dtype=str(base.dtype).removeprefix("torch."),
        load=os.getloadavg()[0],
    )


def _train(model: LoraModel, job: JobSpec, examples: ExampleSet) -> SharedWork[None]:
    plan = TrainingPlan(len(examples), job.batch_size, job.n_epochs, job.seed)
    optimizer = AdapterOptimizer(model.parameters, job, plan.total_steps)
    gradient = GradientAccumulator(model, examples, plan, choose_token_budget(model), lambda: None)
    for step in range(plan.total_steps):
        yield from gradient.shares(step)
        optimizer.clip()
        optimizer.step(step)


def main() -> None:
    """Measure what the command line asks for."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(train_together(TogetherRequest.from_json(sys.argv[1])).to_json())


if __name__ == "__main__":
    main()
