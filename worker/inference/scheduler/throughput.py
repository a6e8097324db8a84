"""The throughput of an engine lately, of prefill and of decoding, measured by its steps."""

from core.ratio import ratio
from core.serving.admission import Rate


class EngineThroughput:
    """How fast prompts are computed and tokens generated, and how long completions are: a ``Throughput``."""

    def __init__(self) -> None:
        self._prefill = Rate()
        self._decode = Rate()
        self._completions = Rate()  # of tokens per completion, which fades with the completions

    @property
    def prefill_tokens_per_s(self) -> float | None:
        return self._prefill.per_s

    @property
    def decode_tokens_per_s(self) -> float | None:
        return self._decode.per_s

    def note_step(self, seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        """Take a step into account; one that did both kinds of work is divided by its tokens."""
        total = prefill_tokens + decode_tokens
        for rate, tokens in ((self._prefill, prefill_tokens), (self._decode, decode_tokens)):
            if tokens:
                rate.note(tokens, seconds * tokens / total)

    def note_completion(self, completion_tokens: int) -> None:
        self._completions.note(completion_tokens, 1.0)

    def seconds_for(self, requests: int, prompt_tokens: int) -> float | None:
        """Estimate what waiting requests take, by the length that completions had lately.

        Where only prompts or only completions were measured yet, the other part is left out. None: neither was.
        """
        parts = [
            None if self._prefill.per_s is None else ratio(prompt_tokens, self._prefill.per_s),
            None
            if self._completions.per_s is None or self._decode.per_s is None
            else ratio(requests * self._completions.per_s, self._decode.per_s),
        ]
        known = [part for part in parts if part is not None]
        return sum(known) if known else None
