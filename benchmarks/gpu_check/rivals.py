"""Others on the same model of Phi-2's size, where they are installed. One that cannot be measured is passed over."""

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_check import serving_speed, training_speed
from benchmarks.gpu_check.models import large_base, own_folder
from benchmarks.gpu_check.parts import Note, PartSkipped, Setting
from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.adapters import write_adapters
from benchmarks.serving.decode import load_endless
from benchmarks.serving.steps import interleave, time_generate
from benchmarks.training.cases import TrainerContestant
from core.base_models.registry import DType

RANK, CONTEXT_TOKENS = 16, 512


@contextmanager
def _passed_over(name: str) -> Iterator[None]:
    """Say that a rival could not be measured; nothing of ours failed by that."""
    try:
        yield
    except Exception as error:
        raise PartSkipped(f"{name} could not be measured: {type(error).__name__}: {error}") from error


def measure_hf_trainer(setting: Setting, note: Note) -> None:
    """Train with transformers' Trainer at its best, and as the question that Loramill answers has it."""
    tuned = _trainer(setting, "hf_best", "HF Trainer, tuned")
    asked = replace(
        _trainer(setting, "seed", "HF Trainer: fp32, padded to 2048, labels copied", "float32"),
        share=1 / 128,
        rows_per_step=2,
        rows_at_once=None,
    )
    _measure_trainers(setting, note, (tuned, asked))


def measure_trl(setting: Setting, note: Note) -> None:
    """Train with TRL's SFTTrainer, tuned and at its defaults."""
    tuned = _trainer(setting, "trl_tuned", "TRL SFTTrainer, tuned")
    default = _trainer(setting, "trl_default", "TRL SFTTrainer: defaults", "bfloat16")
    _measure_trainers(setting, note, (tuned, default))


def _trainer(setting: Setting, trainer: str, description: str, dtype: DType = "auto") -> TrainerContestant:
    sizes = training_speed.sizes_of(setting)
    return TrainerContestant(
        trainer, description, rows_per_step=sizes.rows_per_step, rows_at_once=sizes.rows_at_once, dtype=dtype
    )


def _measure_trainers(setting: Setting, note: Note, contestants: Sequence[TrainerContestant]) -> None:
    case = training_speed.make_case(setting)
    for one in contestants:
        with _passed_over(one.description):
            measured = training_speed.measure(setting, case, one)
        note(one.description, training_speed.figures_of(measured))


def measure_generate(setting: Setting, note: Note) -> None:
    """Time steps of transformers' generate, on as many rows as ours of the base model."""
    sizes = serving_speed.sizes_of(setting)
    prompts = serving_speed.draw_prompts(max(sizes.rows))
    with _passed_over("transformers' generate"):
        peer = load_endless(large_base(setting), torch.bfloat16)
        work: dict[str, Any] = {
            f"base {rows}": lambda n=rows: time_generate(peer, prompts[:n], sizes.steps) for rows in sizes.rows
        }
        interleave(work, sizes.repeats, lambda found: note("tokens_per_s", serving_speed.speeds(found)))


def measure_vllm(setting: Setting, note: Note) -> None:
    """Time vLLM's steps in its own process-less engine: as many rows as ours, of the base model and of adapters.

    A step's time is that of many new tokens less that of one, over their number.
    """
    sizes, base, folder = serving_speed.sizes_of(setting), large_base(setting), own_folder(setting)
    adapters = max(count for _, count, _ in sizes.mixes)
    paths = write_adapters(base, folder, [AdapterSpec(f"a{number}", RANK, seed=number) for number in range(adapters)])
    prompts = serving_speed.draw_prompts(max(sizes.rows))
    with _passed_over("vLLM"):
        vllm: Any = importlib.import_module("vllm")
        lora: Any = importlib.import_module("vllm.lora.request")
        engine = vllm.LLM(
            model=str(base),
            dtype="bfloat16",
            max_model_len=CONTEXT_TOKENS,
            skip_tokenizer_init=True,
            generation_config="vllm",
            enable_prefix_caching=False,
            enable_lora=True,
            max_loras=adapters,
            max_lora_rank=RANK,
        )
        named = [lora.LoRARequest(path.name, number + 1, str(path)) for number, path in enumerate(paths)]
        for rows in sizes.rows:
            for count in sorted({0, 1, min(rows, adapters)}):
                own = [named[row % count] for row in range(rows)] if count else None
                step_s = _step_s(vllm, engine, prompts[:rows], own, sizes.steps)
                note(f"{count} adapters, {rows} rows: tokens_per_s", rows / step_s)


def _step_s(vllm: Any, engine: Any, prompts: Sequence[Sequence[int]], own: Sequence[Any] | None, steps: int) -> float:
    """Give the mean time of a step; all is done once before it is timed."""
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]

    def time_tokens(count: int) -> float:
        sampling = vllm.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        began_s = time.perf_counter()
        engine.generate(asked, sampling, lora_request=own, use_tqdm=False)
        return time.perf_counter() - began_s

    time_tokens(steps + 1)
    return (time_tokens(steps + 1) - time_tokens(1)) / steps
