"""One request on its way through the engine: from its prompt's ids to the deltas of its answer.

Knows the request, its text and its sampler; batches and threads are ``decode_loop``'s.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.errors import ServiceError
from core.generation import Delta, FinishReason, SamplingParams, Token, Usage
from core.text.tokenizer import TextTokenizer
from worker.inference.lora import Adapter
from worker.inference.sampling import Sampler
from worker.inference.text import AnswerText


class Answer:
    """A request that the decode loop answers.

    ``deliver`` takes each delta, or the error that ends the answer; ``release`` is called once, when the
    adapter will not be touched again. Both are called in the loop's thread, or in the canceller's.

    Attributes:
        next_id: the token to feed next; before the first token was taken it has no meaning.
        is_cancelled: set by the asking side, read by the loop between steps.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        adapter: Adapter | None,
        sampling: SamplingParams,
        tokenizer: TextTokenizer,
        device: torch.device,
        *,
        deliver: Callable[[Delta | ServiceError], None],
        release: Callable[[], None],
    ) -> None:
        self.prompt_ids = prompt_ids
        self.adapter = adapter
        self.next_id = -1
        self.is_cancelled = False
        self._deliver = deliver
        self._release = release
        self._is_over = False
        self._tokenizer = tokenizer
        self._max_tokens = sampling.max_tokens
        self._sampler = Sampler(sampling, device)
        self._text = AnswerText(tokenizer.stream(), sampling.stop)
        self._completion_tokens = 0

    def take(self, logits_V: Tensor) -> bool:
        """Choose the next token, deliver what it adds, and tell whether the answer goes on."""
        delta = self._delta(self._sampler.choose(logits_V), logits_V)
        self._deliver(delta)
        if delta.finish_reason is not None:
            self.end()
        return not self._is_over

    def end(self, error: ServiceError | None = None) -> None:
        """Take no further token. Whatever ended it first counts; later calls do nothing."""
        if self._is_over:
            return
        self._is_over = True
        if error is not None:
            self._deliver(error)
        self._release()

    def _delta(self, token_id: int, logits_V: Tensor) -> Delta:
        self.next_id = token_id
        self._completion_tokens += 1
        is_end = token_id in self._tokenizer.end_ids
        text = "" if is_end else self._text.push(token_id)
        if not self._text.is_stopped and (is_end or self._completion_tokens == self._max_tokens):
            text += self._text.finish()
        reason = self._finish_reason(is_end)
        token_text = self._tokenizer.token_text(token_id)
        token = Token(
            id=token_id,
            text=token_text,
            logprob=float(logits_V[token_id] - logits_V.logsumexp(0)),
            special=token_text in self._tokenizer.control_texts,
        )
        usage = Usage(prompt_tokens=len(self.prompt_ids), completion_tokens=self._completion_tokens)
        return Delta(text=text, tokens=(token,), finish_reason=reason, usage=usage if reason else None)

    def _finish_reason(self, is_end: bool) -> FinishReason | None:
        if self._text.is_stopped:
            return FinishReason.STOP
        if is_end:
            return FinishReason.END
        return FinishReason.LENGTH if self._completion_tokens == self._max_tokens else None
