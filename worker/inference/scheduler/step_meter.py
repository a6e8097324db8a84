"""What steps take, and how near they come to what memory and processor can do: a step's bytes and operations over time.

Counts what a step at least reads and multiplies, from the requests in it; how the model does that is the runner's
matter, and what the machine can do is ``probe``'s.
"""

from collections.abc import Sequence

from worker.inference.metrics.step_metrics import StepMetrics
from worker.inference.model.contract import Runner
from worker.inference.scheduler.step_plan import Feed


class StepMeter:
    """Tells the metrics of one batch's steps; only its thread may use it."""

    def __init__(self, runner: Runner, metrics: StepMetrics) -> None:
        self._timer = runner.timer
        self._size = runner.size
        self._kv_bytes_per_token = runner.kv.shape.bytes_per_token
        self._metrics = metrics
        self._prompt_flops = 0  # of steps since the device was last waited for
        self._prompt_s = 0.0

    def begin(self) -> None:
        """Begin a step."""
        self._timer.begin()

    def end(self, feeds: Sequence[Feed], seconds: float) -> None:
        """Tell of a step that has succeeded. One that was taken apart was slowed by that, so it has no rate."""
        parts = self._timer.end()
        prompts = sum(feed.reads_prompt for feed in feeds)
        if parts is not None:
            self._metrics.parts(parts, seconds)
        elif not prompts:
            self._metrics.decode_rate(self._read_bytes(feeds) / seconds)
        elif prompts == len(feeds):
            self._note_prompts(feeds, seconds)
            return
        self._prompt_flops, self._prompt_s = 0, 0.0

    def _note_prompts(self, feeds: Sequence[Feed], seconds: float) -> None:
        """Count steps that only read prompts up to one that wants logits: others may not have waited for a GPU."""
        tokens, wanted = sum(len(feed.tokens) for feed in feeds), sum(feed.wanted for feed in feeds)
        self._prompt_flops += 2 * (self._size.block_weights * tokens + self._size.head_weights * wanted)
        self._prompt_s += seconds
        if wanted:
            self._metrics.prefill_rate(self._prompt_flops / self._prompt_s)
            self._prompt_flops, self._prompt_s = 0, 0.0

    def _read_bytes(self, feeds: Sequence[Feed]) -> int:
        """Give what a step that only answers reads: the weights once, its rows' cache, and each adapter once."""
        cached_tokens = sum(feed.row.slot.length for feed in feeds)
        adapters = [feed.row.answer.adapter for feed in feeds]
        adapter_bytes = {adapter.digest: adapter.bytes for adapter in adapters if adapter is not None}
        return self._size.weight_bytes + cached_tokens * self._kv_bytes_per_token + sum(adapter_bytes.values())
