"""Does the engine's model compute on this device what transformers computes, with recorded steps and without?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.correctness.mixes import make_prompts
from benchmarks.gpu_check.models import own_folder, write_families
from benchmarks.gpu_check.parts import Note, Setting, require
from benchmarks.training.adapters import load
from core.base_models.registry import DType
from core.settings import Settings
from tests.harness.models.twin_runners import Twins, run_mix
from worker.inference.model.comparison import TOLERANCE
from worker.inference.model.contract import StepRow
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.models.serving import open_engine_model

MIXES: Final = 200
WORSE: Final = 2.0  # how many times as far off in bfloat16 as transformers itself may be: two right ways differ too


def compare_blocks(setting: Setting, note: Note) -> None:
    """Hold our own blocks, prompt and steps behind it, against transformers in float32 and in bfloat16."""
    prompts = make_prompts(0, count=4, shortest=8, longest=60, vocabulary=256)
    for name, base in write_families(setting).items():
        exact = _logits_of_transformers(base, prompts, torch.float32)
        error = _distance(_our_logits(setting, base, prompts, "float32"), exact)
        note(f"{name}, float32, of the logits' spread", error)
        require(error <= TOLERANCE, f"{name} in float32 is {error:.2g} of the logits' spread off transformers")
        ours = _distance(_our_logits(setting, base, prompts, "bfloat16"), exact)
        theirs = _distance(_logits_of_transformers(base, prompts, torch.bfloat16), exact)
        note(f"{name}, bfloat16, ours and transformers'", [ours, theirs])
        require(ours <= WORSE * theirs, f"{name} in bfloat16 is {ours:.2g} off float32, transformers {theirs:.2g}")


def compare_graphs(setting: Setting, note: Note) -> None:
    """Take steps of mixes of adapters twice: operation by operation, and recorded and replayed."""
    for name, base in write_families(setting).items():
        twins = Twins(
            _make_runner(setting, base, "float32", graphs=False), _make_runner(setting, base, "float32", graphs=True)
        )
        with torch.inference_mode():
            run_mix(twins, MIXES)
        graphs = twins.graphed._graphs
        recorded = 0 if graphs is None else len(graphs._recorded)
        note(f"{name}, mixes and recordings kept", [MIXES, recorded])
        require(recorded > 0, f"{name}: no step was recorded; the part's log says why")


def _make_runner(setting: Setting, base: Path, dtype: DType, *, graphs: bool) -> ModelRunner:
    settings = Settings(home=own_folder(setting), engine_native=False, engine_cuda_graphs=graphs, engine_kv_bytes=2**26)
    return build_runner(open_engine_model(base, settings.references_folder, dtype=dtype), settings)


def _our_logits(setting: Setting, base: Path, prompts: Sequence[Sequence[int]], dtype: DType) -> list[Tensor]:
    """Give float32 logits_TV of each prompt: its first half fed at once, the others token by token."""
    runner = _make_runner(setting, base, dtype, graphs=False)
    found = []
    with torch.inference_mode():
        for prompt in prompts:
            slot = runner.kv.allocate(len(prompt))
            assert slot is not None, "one prompt at a time has room"
            half = len(prompt) // 2
            parts = [runner.forward([StepRow(slot, prompt[:half], None, half)])]
            parts += [runner.forward([StepRow(slot, [token], None, 1)]) for token in prompt[half:]]
            runner.kv.release(slot)
            found.append(torch.cat(parts).cpu())
    return found


def _logits_of_transformers(base: Path, prompts: Sequence[Sequence[int]], dtype: torch.dtype) -> list[Tensor]:
    model = load(base, dtype).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids], device=model.device)).logits[0].float().cpu() for ids in prompts]


def _distance(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Give the largest difference of any logit, as a share of the spread of those at its position; NaN if one is."""
    worst = []
    for found_TV, exact_TV in zip(found, exact, strict=True):
        tokens = min(found_TV.shape[1], exact_TV.shape[1])  # the head may have rows that no token has
        difference_TV = found_TV[:, :tokens] - exact_TV[:, :tokens]
        worst.append((difference_TV.abs().amax(dim=1) / exact_TV[:, :tokens].std(dim=1)).max())
    return float(torch.stack(worst).max())
