"""How fast the trainer is on a model of Phi-2's size with random weights, and what memory it takes.

MFU is needed operations a second over those of the fastest product of the model's shapes, timed in the same process;
see ``benchmarks.training.roofline``. A part's process measures several times, each after a step that does not count.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from benchmarks import train_one
from benchmarks.gpu_check.models import large_base, large_shape, own_folder
from benchmarks.gpu_check.parts import Note, Setting, require
from benchmarks.training.adapters import ALPHA, RANK
from benchmarks.training.cases import PHI_TARGETS, SEED, BenchmarkCase, TrainerContestant
from benchmarks.training.measurement import Measurement
from benchmarks.training.models import SHAPES
from benchmarks.training.rows import generate
from benchmarks.training.summary import ablations
from core.base_models.shape import read_shape
from core.estimates.memory_plan import StepSizes, plan_memory
from core.jobs.spec import LoraSpec
from worker.models.precision import fast_bf16

LEARNING_RATE: Final = 2e-4
STEPS: Final = 2
OVER_ESTIMATE: Final = 1.1  # of it, that a run may take


@dataclass(frozen=True)
class SpeedSizes:
    """How much is trained on.

    Attributes:
        rows_per_step: 80,000 tokens in full size, more than the largest budget.
        rows_at_once: of a rival's micro-batch: the longest ones fit into 80 GB then.
        budgets: tokens of a micro-batch of ours; None: as a job chooses it.
    """

    rows_per_step: int
    rows_at_once: int
    budgets: tuple[int | None, ...]


FULL: Final = SpeedSizes(512, 16, (None, 4096))
MINIATURE: Final = SpeedSizes(8, 4, (None,))


def sizes_of(setting: Setting) -> SpeedSizes:
    return MINIATURE if setting.is_miniature else FULL


def make_case(setting: Setting) -> BenchmarkCase:
    """Write the rows, and the model where nobody did yet."""
    rows_file = own_folder(setting) / "rows.json"
    rows_per_step, vocabulary = sizes_of(setting).rows_per_step, SHAPES[large_shape(setting)].vocabulary
    rows = generate(rows_per_step * STEPS, 0, vocabulary=vocabulary, seed=SEED)
    rows.write(rows_file)
    return BenchmarkCase("phi-2", large_base(setting), rows_file, rows, PHI_TARGETS, LEARNING_RATE)


def measure(
    setting: Setting,
    case: BenchmarkCase,
    contestant: TrainerContestant,
    *,
    without: tuple[str, ...] = (),
) -> Measurement:
    """Measure one trainer in this process."""
    request = case.request(contestant, without=without)
    return train_one.measure(replace(request, warms_up=setting.on_gpu))


def figures_of(measured: Measurement) -> dict[str, Any]:
    """Give what is told of a measurement; None where a trainer is not ours."""
    return {
        "tokens_per_s": measured.useful_tokens_per_s,
        "trained_tokens_per_s": measured.trained_tokens_per_s,
        "step_s": measured.step_s,
        "mfu": measured.peak_share,
        "peak_memory_bytes": measured.peak_memory_bytes,
    }


def measure_ours(setting: Setting, note: Note) -> None:
    """Train at several sizes of a micro-batch, and hold the memory that the first takes against the estimate."""
    sizes, case = sizes_of(setting), make_case(setting)
    estimated_bytes = _estimate_bytes(setting, case)
    note("estimated_memory_bytes", estimated_bytes)
    for budget in sizes.budgets:
        one = TrainerContestant("ours", "ours", rows_per_step=sizes.rows_per_step, token_budget=budget)
        measured = measure(setting, case, one)
        note("ours" if budget is None else f"ours, {budget:,} tokens at once", figures_of(measured))
        if budget is None:
            note("products_gflop_per_s", measured.products)
            fits = measured.peak_memory_bytes <= OVER_ESTIMATE * estimated_bytes
            # on a CPU it is the process's, with all that measures in it
            require(fits or not setting.on_gpu, f"takes {measured.peak_memory_bytes:,} bytes, not {estimated_bytes:,}")


def _estimate_bytes(setting: Setting, case: BenchmarkCase) -> int:
    """Estimate the memory of torch's tensors, which is what is measured: without that of the GPU's context."""
    lengths = [len(row.ids) for row in case.rows.training]
    rows_per_step = sizes_of(setting).rows_per_step
    plan = plan_memory(
        read_shape(case.base),
        LoraSpec(rank=RANK, alpha=ALPHA, target_modules=PHI_TARGETS),
        "bfloat16" if fast_bf16() else "float32",
        StepSizes(max(lengths), sum(lengths) / len(lengths), rows_per_step, math.ceil(len(lengths) / rows_per_step)),
        available_bytes=torch.cuda.mem_get_info()[0] if setting.on_gpu else None,
        is_gpu=setting.on_gpu,
    )
    return plan.peak_bytes - plan.runtime_bytes


def measure_techniques(setting: Setting, note: Note) -> None:
    """Measure ours without each technique."""
    sizes, case = sizes_of(setting), make_case(setting)
    one = TrainerContestant("ours", "ours", rows_per_step=sizes.rows_per_step)
    for off in ablations()[1:2] if setting.is_miniature else ablations():
        note(f"without {', '.join(off) or 'nothing'}", figures_of(measure(setting, case, one, without=off)))
