"""What steps take, and how near they come to what memory and processor can do: a step's bytes and operations over time.

Counts what a step at least reads and multiplies, from the requests in it; how the model does that is the runner's
matter, and what the machine can do is ``machine_probe``'s.
"""

from collections.abc import Sequence

from worker.inference.metrics.step_metrics import StepMetrics
from worker.inference.model.contract import Runner
from worker.inference.scheduler.step_plan import ScheduledRow


class StepMeter:
    """Tells the metrics of one batch's steps; only its thread may use it."""

    def __init__(self, runner: Runner, metrics: StepMetrics) -> None:
        self._timer = runner.timer
        self._size = runner.size
        self._kv_bytes_per_token = runner.kv.shape.bytes_per_token
        self._metrics = metrics
        self._prefill_flops = 0  # of steps since the device was last waited for
        self._prefill_s = 0.0

    def begin(self) -> None:
        """Begin a step."""
        self._timer.begin()

    def end(self, rows: Sequence[ScheduledRow], seconds: float) -> None:
        """Tell of a step that has succeeded. One that was taken apart was slowed by that, so it has no rate."""
        parts = self._timer.end()
        prefills = sum(row.is_prefill for row in rows)
        if parts is not None:
            self._metrics.parts(parts, seconds)
        elif not prefills:
            self._metrics.decode_rate(self._read_bytes(rows) / seconds)
        elif prefills == len(rows):
            self._note_prefills(rows, seconds)
            return
        self._prefill_flops, self._prefill_s = 0, 0.0

    def _note_prefills(self, rows: Sequence[ScheduledRow], seconds: float) -> None:
        """Count steps of prefill alone up to one that wants logits: others may not have waited for a GPU."""
        tokens, wanted = sum(len(row.tokens) for row in rows), sum(row.wanted for row in rows)
        self._prefill_flops += 2 * (self._size.block_weights * tokens + self._size.head_weights * wanted)
        self._prefill_s += seconds
        if wanted:
            self._metrics.prefill_rate(self._prefill_flops / self._prefill_s)
            self._prefill_flops, self._prefill_s = 0, 0.0

    def _read_bytes(self, rows: Sequence[ScheduledRow]) -> int:
        """Give what a step that only decodes reads: the weights once, its rows' cache, and each adapter once."""
        cached_tokens = sum(row.row.slot.length for row in rows)
        adapters = [row.row.request.adapter for row in rows]
        adapter_bytes = {adapter.digest: adapter.bytes for adapter in adapters if adapter is not None}
        return self._size.weight_bytes + cached_tokens * self._kv_bytes_per_token + sum(adapter_bytes.values())
