"""What a run tells of how its adapter came about: which machine and libraries computed it, on which examples.

A checkpoint carries the stints before it, so that a run that goes on elsewhere still names all of its machines.
"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from core.process.cpu_levels import list_own_levels
from core.provenance.record import Provenance, Rendered, Stint
from core.serving.adapter_format import digest_text
from core.text.held_out import HELD_OUT_VERSION
from worker.models.loading import LoadedModel
from worker.training.data.examples import ExampleSet, RunData
from worker.training.data.plan import PLAN_VERSION
from worker.training.native.kernels import TrainerKernels
from worker.training.output.checkpoint import CheckpointState
from worker.training.process.ranks import Ranks

_LIBRARIES: Final = ("loramill", "numpy", "peft", "tokenizers", "torch", "transformers")
_NVIDIA_DRIVER: Final = Path("/sys/module/nvidia/version")
_CPUINFO: Final = Path("/proc/cpuinfo")


def environment_of(base: LoadedModel, kernels: TrainerKernels | None, ranks: Ranks) -> dict[str, str]:
    """Name what changes a run's result by rounding alone."""
    settings = {
        "device": str(base.device),
        "dtype": str(base.dtype),
        "kernels": "none" if kernels is None else kernels.name,
        "threads": str(torch.get_num_threads()),
        "ranks": str(ranks.size),
        "cpu": _cpu_name(),
        "cpu_level": list_own_levels()[0].name,
        "deterministic_algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if base.device.type == "cuda":
        settings |= _gpu_of(base.device)
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES} | settings


def changes(before: dict[str, str], now: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Give what is otherwise now, as it was and as it is; what only one record has is left out."""
    return {name: (before[name], now[name]) for name in before if now.get(name, before[name]) != before[name]}


def stints_of(earlier: CheckpointState | None, environment: dict[str, str]) -> tuple[Stint, ...]:
    """Give the stints of a run that begins, or goes on from a checkpoint, in this process.

    One that goes on as it began, on the same machine, adds none.
    """
    system = f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}"
    host = platform.node()
    if earlier is None:
        return (Stint(from_step=0, host=host, system=system, environment=environment),)
    # of a checkpoint from before stints were kept, its environment is what is known of all the steps before
    before = earlier.stints or (Stint(from_step=0, host=None, system=None, environment=earlier.environment),)
    here = Stint(from_step=earlier.step, host=host, system=system, environment=environment)
    is_same = before[-1].model_copy(update={"from_step": here.from_step}) == here
    return before if is_same else (*before, here)


def provenance_of(base: LoadedModel, data: RunData, stints: tuple[Stint, ...], *, scores_a_file: bool) -> Provenance:
    """Put the record together.

    Args:
        scores_a_file: a validation file is scored, so that nothing was held out.
    """
    template = base.tokenizer.chat_template
    return Provenance(
        training=_rendered(data.training),
        held_out=_rendered(data.held_out),
        planner_version=PLAN_VERSION,
        held_out_version=None if scores_a_file else HELD_OUT_VERSION,
        tokenizer_sha256=base.tokenizer.digest,
        chat_template_sha256=None if template is None else digest_text(template),
        stints=stints,
    )


def _rendered(examples: ExampleSet) -> Rendered:
    return Rendered(sha256=examples.digest, examples=len(examples), tokens=len(examples.ids))


def _cpu_name() -> str:
    """Give the CPU as Linux calls it; where it does not say, its architecture."""
    for line in _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _gpu_of(device: torch.device) -> dict[str, str]:
    found = {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    found["cudnn"] = str(torch.backends.cudnn.version())
    if _NVIDIA_DRIVER.exists():
        found["driver"] = _NVIDIA_DRIVER.read_text().strip()
    return found
