"""Does the trainer compute on this device what transformers and PEFT compute, and end where it should when resumed?"""

import os
from functools import reduce
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.gpu_check.models import own_folder, write_families
from benchmarks.gpu_check.parts import Note, PartSkipped, Setting, require
from benchmarks.training.ours import as_examples
from benchmarks.training.rows import generate
from core.base_models.registry import DType
from core.jobs.spec import LoraSpec, Quantization
from core.serving.adapter_format import WEIGHTS
from tests.worker.training.reference_model import reference_model, relative_error, step_by_definition, take_gradient
from tests.worker.training.run_folders import make_job, never_stop, stop_after, train, write_run
from worker.models.loading import load_base_model
from worker.models.precision import resolve_dtype
from worker.trainer_process.run_folder import ADAPTER
from worker.training.data.examples import ExampleSet
from worker.training.data.plan import TrainingPlan
from worker.training.model.ablations import ALL, Techniques
from worker.training.model.attention import Attention, SdpaAttention, VarlenAttention, make_attention
from worker.training.model.decoder import OwnPass
from worker.training.model.lora import LoraModel, add_lora
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.process.ranks import Ranks, backend_of
from worker.training.step import GradientAccumulator

LORA: Final = LoraSpec(rank=4, alpha=8)
# transformers' modules and PEFT's, one example beside the other, and the head on every row
PLAIN: Final = reduce(
    Techniques.without,
    ("packing", "own_blocks", "own_lora", "fused_gelu", "scored_rows", "gradient_in_forward", "last_block_rows"),
    ALL,
)
DTYPES: Final[tuple[DType, ...]] = ("float32", "bfloat16")
EXAMPLES, VOCABULARY = 8, 320
FP32_TOLERANCE: Final = 1e-4  # of the gradient's length
WORSE: Final = 2.0  # how many times as far off in bfloat16 as torch and transformers themselves may be
# as in `tests.worker.training.model.test_attention`: equal lengths, odd ones, one of a single input
LENGTHS: Final = (37, 1, 300, 16, 37, 64, 5)
HEADS: Final = ((4, 4), (6, 2))  # of queries; of keys and values
HEAD_WIDTH, WINDOW = 80, 37
REPEATS_APART: Final = 5.0  # times as far as two undisturbed runs of a GPU are apart, a resumed one may be
STEPS: Final = 12


def compare_attention(setting: Setting, note: Note) -> None:
    """Hold attention over packed segments, result and gradients, against torch's own in float64."""
    device = torch.device(setting.device)
    if setting.on_gpu and resolve_dtype("auto") == torch.float32:
        raise PartSkipped("this GPU has no fast bfloat16, so the trainer computes in float32, by torch's own attention")
    kind = make_attention(LENGTHS, device, torch.bfloat16, ALL)
    note("kind", type(kind).__name__)
    require(isinstance(kind, VarlenAttention) or not setting.on_gpu, "the kernel for segments is not used on this GPU")
    for heads in HEADS:
        for window in (None, WINDOW):
            exact = _attend(SdpaAttention(LENGTHS), "cpu", torch.float64, heads, window)
            ours = _attend(kind, device, torch.bfloat16, heads, window)
            theirs = _attend(SdpaAttention(LENGTHS), device, torch.bfloat16, heads, window)
            errors = [_errors(one, exact) for one in (ours, theirs)]
            name = f"heads {heads[0]} and {heads[1]}, window {window}"
            note(f"{name}: ours and torch's, result and gradients", errors)
            is_near = all(own <= WORSE * torchs for own, torchs in zip(*errors, strict=True))
            require(is_near, f"{name}: ours is {max(errors[0]):.2g} off float64, torch's own {max(errors[1]):.2g}")


def _attend(
    attention: Attention, device: torch.device | str, dtype: torch.dtype, heads: tuple[int, int], window: int | None
) -> list[Tensor]:
    """Give the result and the inputs' gradients, on the CPU in float64; what is drawn is the same for all."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(LENGTHS), count, HEAD_WIDTH) for count in (heads[0], heads[1], heads[1], heads[0])]
    *inputs, gradient = (torch.randn(shape, generator=generator).bfloat16().to(device, dtype) for shape in shapes)
    for tensor in inputs:
        tensor.requires_grad_()
    query, key, value = inputs
    result = attention(query, key, value, HEAD_WIDTH**-0.5, window)
    return [tensor.detach().double().cpu() for tensor in (result, *torch.autograd.grad(result, inputs, gradient))]


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]


def compare_gradients(setting: Setting, note: Note) -> None:
    """Hold a step's gradient against its definition over transformers and PEFT alone, in float64 on the CPU."""
    for name, base in write_families(setting, half_precision=True).items():
        examples = _examples()
        for dtype in DTYPES:
            model = _make_model(base, dtype)
            way = type(model.decoder_pass).__name__
            require(isinstance(model.decoder_pass, OwnPass), f"{name} in {dtype} is computed by {way}")
            reference = reference_model(base, model, torch.float64)
            _, truth = step_by_definition(reference, map(examples.__getitem__, range(EXAMPLES)))
            ours = relative_error(_gradient(model, examples), truth)
            plain = relative_error(_gradient(_make_model(base, dtype, PLAIN), examples), truth)
            note(f"{name}, {dtype}: ours and transformers' modules", [ours, plain])
            allowed = FP32_TOLERANCE if dtype == "float32" else WORSE * plain
            require(ours <= allowed, f"{name} in {dtype}: the gradient is {ours:.2g} off, {allowed:.2g} is allowed")


def _examples() -> ExampleSet:
    return as_examples(generate(EXAMPLES, 0, vocabulary=VOCABULARY, seed=0).training)


def _make_model(
    base: Path, dtype: DType, techniques: Techniques = ALL, quantization: Quantization | None = None
) -> LoraModel:
    """Load a base with an adapter whose B is not zero, so that every gradient flows."""
    model = add_lora(load_base_model(base, dtype=dtype, quantization=quantization), LORA, 0, techniques)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.parameters.items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def _gradient(model: LoraModel, examples: ExampleSet) -> dict[str, Tensor]:
    _accumulator(model, examples).accumulate(0)
    return {name: gradient.cpu() for name, gradient in take_gradient(model.parameters).items()}


def _accumulator(model: LoraModel, examples: ExampleSet, epochs: int = 1) -> GradientAccumulator:
    plan = TrainingPlan(len(examples), EXAMPLES, epochs, 0)
    return GradientAccumulator(model, examples, plan, 512, never_stop)


def compare_resumed(setting: Setting, note: Note) -> None:
    """Train whole, again, and stopped and resumed; the last adapter may differ no more than the first two do."""
    bases = write_families(setting, half_precision=True)
    for dtype in ("float32", "bfloat16") if setting.on_gpu else ("float32",):
        folder = own_folder(setting)
        options: dict[str, Any] = {"dtype": dtype, "lora": LORA, "n_epochs": 1, "n_evals": 1}
        runs = {name: write_run(folder / name, bases["llama"], **options) for name in ("whole", "again", "resumed")}
        train(runs["whole"])
        train(runs["again"])
        stop_after(runs["resumed"], 2)
        train(runs["resumed"])
        whole, again, resumed = (load_file(run / ADAPTER / WEIGHTS) for run in runs.values())
        repeated, apart = relative_error(again, whole), relative_error(resumed, whole)
        note(f"{dtype}: two whole runs apart, the resumed one apart", [repeated, apart])
        require(apart <= REPEATS_APART * repeated, f"in {dtype} a resumed run ends {apart:.2g} from a whole one")


def sum_up_alone(setting: Setting, note: Note) -> None:
    """Let one rank add gradients and counts up as several would, over NCCL and gloo; alone, nothing may change."""
    note("backend", backend_of(setting.on_gpu))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # as who starts several ranks sets it
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not say that it exports it
    dist.init_process_group(backend_of(setting.on_gpu), store=store, rank=0, world_size=1)
    ranks = Ranks(size=2)  # it would do nothing if it knew that it is alone
    parameters = [nn.Parameter(torch.zeros(shape, device=setting.device)) for shape in ((64, 16), (1000,), (3, 5, 7))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    ranks.sum_gradients(parameters)
    after = [parameter.grad for parameter in parameters if parameter.grad is not None]
    same = [torch.equal(one, other) for one, other in zip(after, before, strict=True)]
    require(all(same), "the sum of one rank's gradients is not its gradients")
    require(ranks.sum_counts(3, 2**40) == [3, 2**40], "the sum of one rank's counts is not its counts")
    ranks.require_equal(1, parameters)
    ranks.leave()


def learn_in_four_bits(setting: Setting, note: Note) -> None:
    """Train a few steps over a base in 4 bits, and over the same in bfloat16."""
    base = write_families(setting)["llama"]
    kinds: tuple[Quantization | None, ...] = (None, "nf4")
    for kind in kinds:
        losses = train_briefly(base, kind)
        note(kind or "bfloat16", losses)
        require(losses[-1] < losses[0], f"{kind or 'bfloat16'}: the loss goes from {losses[0]:.3f} to {losses[-1]:.3f}")


def train_briefly(base: Path, quantization: Quantization | None) -> list[float]:
    """Give the loss of each of a few steps over the same examples."""
    model = _make_model(base, "bfloat16", quantization=quantization)
    optimizer = AdapterOptimizer(model.parameters, make_job(batch_size=EXAMPLES, lora=LORA), STEPS)
    gradient = _accumulator(model, _examples(), epochs=STEPS)
    losses = []
    for step in range(STEPS):
        loss = gradient.accumulate(step).loss.loss
        assert loss is not None, "the examples have weights"
        losses.append(loss)
        optimizer.clip()
        optimizer.step(step)
    return losses
