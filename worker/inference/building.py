"""Makes an engine of a base model's folder and tries out how it computes best on this machine.

Where requests come from is ``worker.inference.server``'s, or whoever else calls the engine.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from core.base_models.registry import BaseModelEntry
from core.settings import Settings
from core.store.blobs import BlobStore
from worker.inference.engine import LocalEngine
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.metrics.machine_probe import probe_trial
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.inference.native.unused_memory import release_unused_memory
from worker.inference.scheduler.step_budget import budget_trial, shared_trial
from worker.inference.start_phases import StartPhases
from worker.inference.tuning.autotuner import BUDGET_S, Autotuner, Trial
from worker.inference.tuning.machine import describe_machine
from worker.inference.tuning.memory import TuningMemory
from worker.models.precision import choose_device, find_gpu_fault
from worker.models.serving import EngineModel, open_engine_model
from worker.native.compiling import ENGINE, compile_ahead

logger = logging.getLogger(__name__)

# settings that change what is tried, or how long it takes
_MATTERING: Final = (
    "engine_weights",
    "engine_native",
    "engine_cuda_graphs",
    "engine_prefill_tokens",
    "engine_speculation",
)

T = TypeVar("T")


def build_engine(
    base: BaseModelEntry,
    folder: Path,
    blobs: BlobStore,
    settings: Settings,
    metrics: EngineMetrics,
    *,
    device: str | None = None,
    on_death: Callable[[], None],
    phases: StartPhases | None = None,
    tries_first: bool = True,
) -> LocalEngine:
    """Load a base model and make an engine of it, which is yet to be started.

    Args:
        folder: where its files are.
        blobs: where its adapters are.
        device: in torch's words; None: the GPU where there is one.
        phases: is told what is done; None: nobody wants to know.
        tries_first: trials are made before the first request, which takes seconds; else when the engine is idle.

    Raises:
        BaseModelInvalid: the folder holds no model that can be loaded, or none that can be served as it is trained.
    """

    phases = phases or StartPhases(settings.engine_start_s)

    def build() -> LocalEngine:
        phases.enter("opening the base model")
        fault = find_gpu_fault(os.environ)
        if fault is not None:
            logger.warning("this engine computes on the CPU, as its GPU cannot be used: %s", fault)
        chosen = choose_device() if device is None else torch.device(device)
        wants_kernels = settings.engine_native and chosen.type == "cpu"
        compiling = compile_ahead(ENGINE, settings.kernels_folder, settings.engine_cpu_level) if wants_kernels else None
        served = open_engine_model(folder, settings.references_folder, dtype=base.dtype, device=chosen)
        logger.info("%s computes on %s in %s", base.name, served.device, served.dtype)
        if compiling is not None and compiling.is_alive():
            phases.enter("compiling kernels")
            compiling.join()
        runner = build_runner(served, settings, entering=phases.enter)
        engine = LocalEngine(base.name, served, blobs, settings, metrics=metrics, on_death=on_death, runner=runner)
        tuner = _make_tuner(engine, served, runner, settings, metrics)
        tuner.recall()
        if tuner.undecided and tries_first:
            phases.enter("timing steps", at_most_s=BUDGET_S)
            tuner.try_left()
        elif tuner.undecided:
            logger.info("to be timed when the engine is idle: %s", ", ".join(tuner.undecided))
        engine.tune_when_idle(tuner)
        release_unused_memory()
        return engine

    return _in_a_thread(build)


def _make_tuner(
    engine: LocalEngine,
    served: EngineModel,
    runner: ModelRunner,
    settings: Settings,
    metrics: EngineMetrics,
) -> Autotuner:
    trials: list[Trial[Any] | None] = [
        *runner.trials,
        probe_trial(served.device, served.dtype, metrics.steps.probed),
        shared_trial(runner),
        budget_trial(runner, settings, engine.use_budget),
    ]
    key = {
        "machine": describe_machine(served.device),
        "loramill": version("loramill"),
        "kernels": runner.kernels or "none",
        "base model": served.fingerprint,
        "dtype": str(served.dtype),
        "settings": repr([(name, getattr(settings, name)) for name in _MATTERING]),
    }
    memory = TuningMemory(settings.tuning_folder, key)
    return Autotuner([trial for trial in trials if trial is not None], memory, served.device)


def _in_a_thread(work: Callable[[], T]) -> T:
    """Do something in a thread that ends with it.

    Each thread that shares work out over the cores keeps helpers of its own for it (libgomp's pools), and once there
    are more of them than cores, all of them go to sleep between two operations instead of waiting awake: a decode step
    then takes nearly twice as long. So the scheduler's thread has to be the only one that is left with helpers.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    # a daemon, so that a signal ends the process while a large model is loaded
    threading.Thread(target=run, name="build", daemon=True).start()
    return outcome.result()
