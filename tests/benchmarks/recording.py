"""Stands in for the processes that benchmarks measure in."""

from benchmarks.training.measurement import Measurement, MeasurementRequest


class RecordingProcesses:
    """Answers each request at once, and remembers it; ours takes 1 s for its rows, others 2 s."""

    def __init__(self) -> None:
        self.requests: list[MeasurementRequest] = []

    def __call__(self, request: MeasurementRequest) -> Measurement:
        self.requests.append(request)
        return Measurement(
            trainer=request.trainer,
            dtype=request.dtype,
            without=request.without,
            examples=request.examples,
            useful_tokens=100 * request.examples,
            trained_tokens=50 * request.examples,
            step_s=(1.0 if request.trainer == "ours" else 2.0,),
            startup_s=1.0,
            peak_memory_bytes=2**20,
            load=0.0,
            held_out_loss=3.0 if request.is_scored else None,
            roofline_s=0.5 if request.trainer == "ours" else None,
            needed_s=0.4 if request.trainer == "ours" else None,
            peak_s=0.3 if request.trainer == "ours" else None,
        )
