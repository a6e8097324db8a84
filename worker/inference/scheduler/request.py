"""One request on its way through the scheduler: from its prompt's ids to the deltas of its completion.

Knows the request, its text and when it is complete; the running batch and the thread are ``batch``'s and ``loop``'s.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.errors import ServiceError
from core.serving.fairness import Key
from core.serving.generation import Alternative, Delta, FinishReason, GenerationRequest, PromptToken, Token, Usage
from core.text.tokenizer import TextTokenizer
from worker.inference.lora.adapter import Adapter
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.sampling.sampler import Choice, RowSampler
from worker.inference.scheduler.detokenizer import Detokenizer


@dataclass
class _Pending:
    """What was appended since the last delta."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)


class Request:
    """A request that waits or runs: vLLM's ``Request``, nano-vllm's ``Sequence``.

    ``deliver`` is given each delta, or the error that ends the request; ``release`` is called once, when the
    adapter will not be touched again. Both are called in the loop's thread, or in the canceller's.

    Attributes:
        ids: the prompt and what has been generated.
        cached_tokens: of the prompt, found in the prefix cache.
        is_cancelled: set by the asking side, read by the loop between steps.
        is_over: nothing will be appended or delivered any more.
    """

    def __init__(
        self,
        generation: GenerationRequest,
        prompt_ids: Sequence[int],
        adapter: Adapter | None,
        tokenizer: TextTokenizer,
        sampler: RowSampler,
        metrics: EngineMetrics,
        *,
        arrived_s: float,
        deliver: Callable[[Delta | ServiceError], None],
        release: Callable[[], None],
    ) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self.ids = list(prompt_ids)
        self.adapter = adapter
        self.key = Key(generation.caller, adapter.digest if adapter else None)
        self.sampler = sampler
        self.sampling = generation.sampling
        self.cached_tokens = 0
        self.is_cancelled = False
        self.is_over = False
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._deliver = deliver
        self._release = release
        self._detokenizer = Detokenizer(tokenizer.stream(), generation.sampling.stop)
        self._pending = _Pending()
        self._prompt = [self._first_token()] if generation.sampling.prompt_logprobs else None
        self._reason: FinishReason | None = None
        self._matched_stop: str | int | None = None
        self._arrived_s = arrived_s
        self._emitted_s: float | None = None  # when the last tokens were delivered

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def completion_tokens(self) -> int:
        return len(self.ids) - len(self.prompt_ids)

    @property
    def tokens_left(self) -> int:
        """How many tokens may still be generated."""
        return self.sampling.max_tokens - self.completion_tokens

    @property
    def is_complete(self) -> bool:
        """Whether the last token has been appended; the delta with it may still have to be emitted."""
        return self._reason is not None

    def append_prompt_logprobs(self, choices: Sequence[Choice]) -> None:
        """Keep the prompt's next tokens with their logprobs, as `sampler.score_prompt` gives them."""
        assert self._prompt is not None, "the prompt's logprobs were not asked for"
        for token in map(self._token, choices):
            self._prompt.append(
                PromptToken(id=token.id, text=token.text, logprob=token.logprob, special=token.special, top=token.top)
            )

    def complete_scored(self) -> None:
        """Complete a request that asks for its prompt's logprobs alone; `emit` delivers them."""
        assert not self.sampling.max_tokens, "a completion is generated"
        self._reason = FinishReason.LENGTH

    def append(self, choice: Choice) -> None:
        """Append the token that was sampled next; `emit` delivers it."""
        token_id = choice.token_id
        self.ids.append(token_id)
        self._pending.tokens.append(self._token(choice))
        ends = self._ends_with(token_id)
        if not ends:
            self.sampler.accept(token_id)
            self._pending.text += self._detokenizer.push(token_id)
            ends = self.sampler.is_complete
        if not self._detokenizer.is_stopped and (ends or not self.tokens_left):
            self._pending.text += self._detokenizer.finish()
        self._reason = self._finish_reason(ends)
        if self._detokenizer.is_stopped:
            self._matched_stop = self._detokenizer.matched_stop
        elif token_id in self.sampling.stop_token_ids:
            self._matched_stop = token_id

    def emit(self) -> None:
        """Deliver what was appended since the last time; the last delta ends the request."""
        self._measure()
        reason, self._emitted_s = self._reason, time.monotonic()
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
        )
        delta = Delta(
            text=self._pending.text,
            tokens=tuple(self._pending.tokens),
            finish_reason=reason,
            usage=usage if reason else None,
            prompt=None if self._prompt is None else tuple(self._prompt),
            stop=self._matched_stop,
        )
        self._pending, self._prompt = _Pending(), None
        if reason is not None:  # before the asker knows, who then finds it counted and its adapter free
            self._metrics.finished_requests.labels(reason.value).inc()
            self._metrics.cached_prompt_tokens.inc(self.cached_tokens)
            self._metrics.usage.count(self.key.adapter, self.prompt_tokens, self.completion_tokens)
            self.end()
        self._deliver(delta)

    def end(self, error: ServiceError | None = None) -> None:
        """Append no further token. Whatever ended it first counts; later calls do nothing."""
        if self.is_over:
            return
        self.is_over = True
        if error is not None:
            self._deliver(error)
        self._release()

    def abort(self) -> None:
        """End a request whose completion nobody waits for any more."""
        if not self.is_over:
            self._metrics.cancelled_requests.labels("asker_left").inc()
            self.end()

    def _ends_with(self, token_id: int) -> bool:
        is_end = token_id in self._tokenizer.end_ids and not self.sampling.ignore_end
        return is_end or token_id in self.sampling.stop_token_ids

    def _finish_reason(self, ends: bool) -> FinishReason | None:
        if self._detokenizer.is_stopped:
            return FinishReason.STOP
        if ends:
            return FinishReason.END
        return None if self.tokens_left else FinishReason.LENGTH

    def _measure(self) -> None:
        now_s = time.monotonic()
        tokens = len(self._pending.tokens)
        if not tokens:  # only the prompt was scored
            return
        if self._emitted_s is None:
            self._metrics.first_token_seconds.observe(now_s - self._arrived_s)
            return
        for _ in range(tokens):  # tokens of one step come together; each took its share of it
            self._metrics.inter_token_seconds.observe((now_s - self._emitted_s) / tokens)

    def _first_token(self) -> PromptToken:
        text = self._tokenizer.token_text(self.prompt_ids[0])
        return PromptToken(id=self.prompt_ids[0], text=text, logprob=None, special=self._is_special(text))

    def _token(self, choice: Choice) -> Token:
        text = self._tokenizer.token_text(choice.token_id)
        return Token(
            id=choice.token_id,
            text=text,
            logprob=choice.logprob,
            special=self._is_special(text),
            top=tuple(self._alternative(token_id, logprob) for token_id, logprob in choice.top),
        )

    def _alternative(self, token_id: int, logprob: float) -> Alternative:
        text = self._tokenizer.token_text(token_id)
        return Alternative(id=token_id, text=text, logprob=logprob, special=self._is_special(text))

    def _is_special(self, text: str) -> bool:
        return text in self._tokenizer.control_texts
