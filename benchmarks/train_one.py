"""One measurement of ``benchmarks.train``, in a process of its own, since a process has one peak of memory.

``python -m benchmarks.train_one REQUEST`` trains as the request says (JSON, `MeasurementRequest`)
and prints what it found as the last line (JSON, `Measurement`).
"""

import gc
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.host.number_types import NumberType
from benchmarks.training import hf_trainer, ours
from benchmarks.training.adapters import score
from benchmarks.training.measurement import Measurement, MeasurementRequest, StepClock
from benchmarks.training.roofline import Roofline
from benchmarks.training.rows import Rows, TokenRow, sample
from worker.models.precision import resolve_dtype
from worker.training.model.memory import peak_memory_bytes

UNTRAINED = "untrained"  # the base model, scored without an adapter


def measure(request: MeasurementRequest) -> Measurement:
    """Train, and then score what was trained."""
    request = replace(request, dtype=_choose_dtype(request))
    rows = Rows.read(Path(request.rows))
    chosen = sample(rows.training, request.examples)
    clock = StepClock(request.began_unix_s, _finish_device)
    load = os.getloadavg()[0]
    warm_up_clock = _warm_up(request, chosen) if request.warms_up else None
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder)
        peak_bytes, find_roofline = _train(request, chosen, clock, adapter)
        roofline = None if find_roofline is None else find_roofline()
        del find_roofline  # it holds the model
        gc.collect()
        scored_adapter = None if request.trainer == UNTRAINED else adapter
        held_out_loss = score(request.base_folder, scored_adapter, rows.held_out) if request.is_scored else None
    return Measurement(
        trainer=request.trainer,
        dtype=request.dtype,
        without=request.without,
        examples=len(chosen),
        useful_tokens=sum(len(row.ids) for row in chosen),
        trained_tokens=sum(row.trained_tokens for row in chosen),
        step_s=tuple(clock.step_s),
        startup_s=(warm_up_clock or clock).startup_s,
        peak_memory_bytes=peak_bytes,
        load=load,
        held_out_loss=held_out_loss,
        roofline_s=None if roofline is None else roofline.seconds,
        needed_s=None if roofline is None else roofline.needed_seconds,
        peak_s=None if roofline is None else roofline.peak_seconds,
        products={} if roofline is None else roofline.products,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    )


def _choose_dtype(request: MeasurementRequest) -> NumberType:
    """Give what "auto" is here; ours without its base in bfloat16 computes in float32."""
    is_bf16 = resolve_dtype(request.dtype) == torch.bfloat16 and ours.choose_techniques(request).bf16_base
    return "bfloat16" if is_bf16 else "float32"


def _warm_up(request: MeasurementRequest, rows: tuple[TokenRow, ...]) -> StepClock:
    """Take one step that leaves nothing behind but a warm device; give the clock that timed it."""
    clock = StepClock(request.began_unix_s, _finish_device)
    with tempfile.TemporaryDirectory() as folder:
        _train(request, rows[: request.rows_per_step], clock, Path(folder))
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return clock


def _train(
    request: MeasurementRequest, rows: tuple[TokenRow, ...], clock: StepClock, adapter: Path
) -> tuple[int, Callable[[], Roofline] | None]:
    """Give the peak of memory before anything else takes some, and of ours what measures the roofline."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    find_roofline = None
    if request.trainer == "ours":
        find_roofline = ours.train(request, rows, clock, adapter)
    elif request.trainer in hf_trainer.RECIPES:
        hf_trainer.train(request, ours.in_our_order(request, rows), clock, adapter)
    elif request.trainer != UNTRAINED:
        from benchmarks.training import trl_trainer  # not installed everywhere, and seconds to import

        trl_trainer.train(request, ours.in_our_order(request, rows), clock, adapter)
    return peak_memory_bytes(device), find_roofline


def _finish_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Measure what the command line asks for."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(measure(MeasurementRequest.from_json(sys.argv[1])).to_json())


if __name__ == "__main__":
    main()
