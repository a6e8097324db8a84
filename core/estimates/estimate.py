"""What a fine-tuning job will take and what it took, under the same names; how the one is derived from the other.

Pure arithmetic on counts, shapes and earlier runs' figures. Who counts tokens and looks up earlier runs is
``app.fine_tuning.estimates``; the trainer measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

from pydantic import Field

from core.base_models.shape import ModelShape
from core.estimates.memory_plan import VALUE_BYTES, ComputeType, Memory
from core.jobs.spec import EVALUATIONS, LoraSpec
from core.values import Frozen

# A run's time before any has finished, from what one core multiplies at best and the share of it that training
# of a small model reaches; and what starting and rendering take on the machines that this was measured on.
CORE_FLOPS_PER_S: Final[dict[ComputeType, float]] = {"float32": 90e9, "bfloat16": 300e9}
EFFICIENCY: Final = 0.2
# In the trainer's kernels the share grows with a step's tokens: of so many it is half of what many reach. Fitted to
# SmolLM2 on two cores of AMD Zen 3: 57 GFLOP/s in steps of 220 tokens, 100 in evaluations.
KERNELS_EFFICIENCY: Final = 0.7
KERNELS_HALF_TOKENS: Final = 260
_EVALUATED_AT_ONCE: Final = 1000  # tokens
_STARTING_S: Final = 7.0
_RENDERING_S_PER_EXAMPLE: Final = 0.5e-3
_LOADING_S: Final = 4.0  # of the libraries that load
_LOADING_BYTES_PER_S: Final = 0.5e9
_SAVING_S: Final = 2.0
# What a few held-out prompts' answers take at each evaluation: so many rounds, each of which reads all weights.
_SAMPLED_TOKENS: Final = 32
_READING_BYTES_PER_S: Final[dict[ComputeType, float]] = {"float32": 1.7e9, "bfloat16": 8e9}


class Seconds(Frozen):
    """Where a run's time goes. ``starting`` is the process's own start; ``saving`` holds all checkpoints."""

    total: float
    starting: float
    rendering: float
    loading: float
    training: float
    evaluating: float
    sampling: float = 0.0  # runs that finished before there were samples have none
    saving: float


class Machine(Frozen):
    """What a run was trained on. Memory is the GPU's where there is one."""

    device: str  # "cpu", or the GPU's name
    dtype: ComputeType
    memory_bytes: int
    devices: int = 1  # of these, that trained together
    has_kernels: bool = False  # the trainer's own computed


class Measured(Frozen):
    """What a run took. Of a resumed one, seconds and evaluated tokens are of its last attempt only.

    Of runs that were trained ``together``, seconds and memory are of all of them. ``peak_memory_bytes`` is of the whole
    process on a CPU, of torch's tensors on a GPU.
    """

    examples: int
    held_out_examples: int
    seen_tokens: int
    trained_tokens: int
    evaluated_tokens: int
    steps: int
    seconds: Seconds
    peak_memory_bytes: int
    token_budget: int
    machine: Machine
    resumed_from_step: int | None
    together: int = 1  # runs that shared the trainer, this one among them

    @classmethod
    def of_result(cls, result: Mapping[str, Any] | None) -> "Measured | None":
        """Read it from a job's result; None for a job that has none, or whose trainer did not measure yet."""
        found = (result or {}).get("measured")
        return None if found is None else cls.model_validate(found)


class EstimatedMachine(Frozen):
    """What an estimate takes the machine for. Null: nothing has told; ``source`` says what has."""

    device: str | None
    memory_bytes: int | None
    available_bytes: int | None
    source: str  # "this host", the job that told, or why nothing is known


class Basis(Frozen):
    """What an estimate of time rests on: finished jobs of the same base model, or an assumed speed."""

    kind: Literal["jobs", "roofline", "unknown"]
    jobs: tuple[str, ...]  # their ids
    flops_per_s: float | None  # of training
    explanation: str


class QueuePlace(Frozen):
    """Where a job stands or would stand."""

    place: int = Field(description="1: next.")
    seconds_ahead: float | None = Field(
        description="Until its turn, if the workers that run a job now are all there are, or one where none does, and "
        "what waits is shared out among them. An idle worker is not known, and would take it sooner. Null where a "
        "job ahead has no estimate."
    )


class Estimate(Frozen):
    """What a job is expected to take. ``problems`` say why a part of it is null."""

    examples: int  # trained on, in each epoch
    held_out_examples: int
    dropped_examples: int  # over max_length
    untrained_examples: int  # every weight is 0
    seen_tokens: int  # over all epochs
    trained_tokens: int
    evaluated_tokens: int
    steps: int
    sampled: bool  # counted on a part of the file and scaled
    read_examples: int
    seconds: Seconds | None
    peak_memory_bytes: int | None
    token_budget: int | None
    memory: Memory | None
    fits: bool | None
    machine: EstimatedMachine
    basis: Basis
    queue: QueuePlace
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ExampleCounts:
    """What a job's files hold once they are rendered; tokens of one epoch, and of one evaluation."""

    examples: int
    held_out_examples: int
    dropped_examples: int
    untrained_examples: int
    tokens: int
    trained_tokens: int
    held_out_tokens: int
    scored_tokens: int  # of them, those of completions that have a weight
    longest_tokens: int  # of the examples trained on
    sampled: bool
    read_examples: int


@dataclass(frozen=True)
class PastRun:
    """A finished job of the same base model."""

    job_id: str
    lora: LoraSpec
    measured: Measured
    n_evals: int  # as its specification has it


@dataclass(frozen=True)
class RunWork:
    """What a run computes: tokens that pass through, and the two sums of operations."""

    examples: int  # rendered
    training_flops: float
    evaluating_flops: float
    evaluations: int


@dataclass(frozen=True)
class RunSpeed:
    """How fast runs go on a machine."""

    basis: Basis
    starting_s: float
    rendering_s_per_example: float
    loading_s: float
    sampling_s_per_evaluation: float
    saving_s: float
    training_flops_per_s: float
    evaluating_flops_per_s: float


def evaluated_after(total_steps: int, n_evals: int = EVALUATIONS) -> frozenset[int]:
    """Give the numbers of steps after which held-out examples are scored: 0, and ``n_evals`` up to all of them."""
    return frozenset(round(total_steps * part / n_evals) for part in range(n_evals + 1))


def work_of(
    shape: ModelShape,
    lora: LoraSpec,
    *,
    seen_tokens: int,
    trained_tokens: int,
    evaluated_tokens: int,
    examples: int,
    evaluations: int,
) -> RunWork:
    """Count a run's floating-point operations.

    With N linear parameters, a token costs 2N forward and 2N backward to its inputs, and 6 for each of an
    adapter's parameters; a scored token also costs the head twice. The frozen weights have no gradient.
    Attention, which grows with an example's length, is left to the speed that was measured.
    """
    adapter = sum(lora.rank * (layer.inputs + layer.outputs) for layer in shape.adapted(lora))
    head = shape.vocab_rows * shape.hidden_width
    scored_share = trained_tokens / seen_tokens if seen_tokens else 0.0
    training = seen_tokens * (4 * shape.linear_parameters + 6 * adapter) + trained_tokens * 4 * head
    evaluating = evaluated_tokens * 2 * (shape.linear_parameters + adapter + scored_share * head)
    return RunWork(examples, training, evaluating, evaluations)


def speed_of_jobs(shape: ModelShape, runs: Sequence[PastRun]) -> RunSpeed | None:
    """Learn from finished runs, the median of each figure; None where there is none.

    A resumed run tells nothing, because its clock saw only a part, nor does one that was trained together with others,
    because its clock saw all of them. Where none evaluated, or none had held-out prompts
    to answer, the one's speed is taken from training and the other's time assumed.
    """
    whole = [run for run in runs if run.measured.resumed_from_step is None and run.measured.together == 1]
    if not whole:
        return None
    took = [run.measured.seconds for run in whole]
    works = [_work_of_run(shape, run) for run in whole]
    training = median(work.training_flops / s.training for work, s in zip(works, took, strict=True))
    evaluated = [
        work.evaluating_flops / s.evaluating
        for work, s in zip(works, took, strict=True)
        if work.evaluating_flops and s.evaluating
    ]
    sampled = [s.sampling / work.evaluations for work, s in zip(works, took, strict=True) if s.sampling]
    number = f"{len(whole)} finished job{'s' * (len(whole) != 1)}"
    return RunSpeed(
        basis=Basis(
            kind="jobs",
            jobs=tuple(run.job_id for run in whole),
            flops_per_s=training,
            explanation=f"the speed of {number} of this base model, the median",
        ),
        starting_s=median(s.starting for s in took),
        rendering_s_per_example=median(s.rendering / work.examples for work, s in zip(works, took, strict=True)),
        loading_s=median(s.loading for s in took),
        sampling_s_per_evaluation=(
            median(sampled) if sampled else _assumed_sampling_s(shape, whole[0].measured.machine.dtype)
        ),
        saving_s=median(s.saving for s in took),
        training_flops_per_s=training,
        evaluating_flops_per_s=median(evaluated) if evaluated else training,
    )


def speed_of_cores(
    shape: ModelShape, dtype: ComputeType, cores: int, *, step_tokens: float, has_kernels: bool = False
) -> RunSpeed:
    """Assume a speed for a machine without a GPU on which no run has finished yet.

    Args:
        step_tokens: of a step, on average.
        has_kernels: whether the trainer has kernels of its own there.
    """
    peak = cores * CORE_FLOPS_PER_S[dtype]
    training, evaluating = (_efficiency(tokens, has_kernels) for tokens in (step_tokens, _EVALUATED_AT_ONCE))
    return RunSpeed(
        basis=Basis(
            kind="roofline",
            jobs=(),
            flops_per_s=training * peak,
            explanation=(
                f"no job of this base model has finished yet; assumed are {CORE_FLOPS_PER_S[dtype]:.3g} FLOP/s "
                f"in {dtype} for each of {cores} cores, and {training:.0%} of it reached"
            ),
        ),
        starting_s=_STARTING_S,
        rendering_s_per_example=_RENDERING_S_PER_EXAMPLE,
        loading_s=_LOADING_S + shape.parameters * 2 / _LOADING_BYTES_PER_S,
        sampling_s_per_evaluation=_assumed_sampling_s(shape, dtype),
        saving_s=_SAVING_S,
        training_flops_per_s=training * peak,
        evaluating_flops_per_s=evaluating * peak,
    )


def _efficiency(tokens: float, has_kernels: bool) -> float:
    """Give the share of a CPU's peak that products over so many tokens reach."""
    return KERNELS_EFFICIENCY * tokens / (tokens + KERNELS_HALF_TOKENS) if has_kernels else EFFICIENCY


def _assumed_sampling_s(shape: ModelShape, dtype: ComputeType) -> float:
    """Assume what the samples of an evaluation take, where no run has had any yet."""
    return _SAMPLED_TOKENS * shape.parameters * VALUE_BYTES[dtype] / _READING_BYTES_PER_S[dtype]


def seconds_of(work: RunWork, speed: RunSpeed) -> Seconds:
    """Say how long a run takes at that speed."""
    parts = {
        "starting": speed.starting_s,
        "rendering": work.examples * speed.rendering_s_per_example,
        "loading": speed.loading_s,
        "training": work.training_flops / speed.training_flops_per_s,
        "evaluating": work.evaluating_flops / speed.evaluating_flops_per_s,
        "sampling": work.evaluations * speed.sampling_s_per_evaluation if work.evaluating_flops else 0.0,
        "saving": speed.saving_s,
    }
    return Seconds(total=sum(parts.values()), **parts)


def _work_of_run(shape: ModelShape, run: PastRun) -> RunWork:
    measured = run.measured
    return work_of(
        shape,
        run.lora,
        seen_tokens=measured.seen_tokens,
        trained_tokens=measured.trained_tokens,
        evaluated_tokens=measured.evaluated_tokens,
        examples=measured.examples + measured.held_out_examples,
        evaluations=len(evaluated_after(measured.steps, run.n_evals)),
    )
