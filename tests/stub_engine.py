"""A stand-in for an engine: it answers from a script, and remembers what it was asked and what was cancelled."""

import asyncio
from collections.abc import AsyncGenerator

from core.errors import InvalidParameter, PromptTooLong, ServiceError
from core.generation import (
    Delta,
    EngineInfo,
    FinishReason,
    GenerationRequest,
    PromptSource,
    Rendering,
    RenderRequest,
    Token,
    Usage,
    Variables,
)

CONTEXT_TOKENS = 128
END = "<|end|>"


class StubEngine:
    """Fulfils `core.generation.Engine`: a prompt of n words (or ids) has n tokens, and so has a reply.

    The reply is ``" one two three"`` word by word, then the end token. Stop sequences are honoured where
    one is a whole word of the reply. Of every adapter the prompt format is ``Q {{question}} A``, and a
    conversation is written out as its contents.
    """

    def __init__(self, reply: str = " one two three") -> None:
        self.reply = reply
        self.requests: list[GenerationRequest] = []
        self.renderings: list[RenderRequest] = []
        self.cancelled: list[str] = []
        self.fails_before: ServiceError | Exception | None = None
        self.fails_after: tuple[int, ServiceError | Exception] | None = None  # deltas, then the error
        self.holds: asyncio.Event | None = None  # where set, awaited after the first delta
        self.info_error: ServiceError | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        is_whole = False
        try:
            if self.fails_before is not None:
                raise self.fails_before
            for number, delta in enumerate(self._deltas(request)):
                if self.fails_after is not None and number == self.fails_after[0]:
                    raise self.fails_after[1]
                yield delta
                if self.holds is not None:
                    await self.holds.wait()
            is_whole = True
        finally:
            if not is_whole:
                self.cancelled.append(request.id)

    def _deltas(self, request: GenerationRequest) -> list[Delta]:
        prompt = request.prompt
        prompt_tokens = len(prompt if isinstance(prompt, tuple) else _text_of(prompt, request.adapter).split())
        most = request.sampling.max_tokens
        if prompt_tokens + most > CONTEXT_TOKENS:
            raise PromptTooLong(prompt_tokens, most, CONTEXT_TOKENS)
        words = [f" {word}" for word in self.reply.split()]
        stop = next((place for place, word in enumerate(words) if word.strip() in request.sampling.stop), None)
        if stop is not None and stop < most:
            said, reason = [*words[:stop], words[stop]], FinishReason.STOP
        elif len(words) < most:
            said, reason = [*words, END], FinishReason.END
        else:
            said, reason = words[:most], FinishReason.LENGTH
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=len(said))
        return [
            Delta(
                text="" if place == len(said) - 1 and reason is not FinishReason.LENGTH else text,
                tokens=(Token(id=place + 10, text=text, logprob=-0.5, special=text == END),),
                finish_reason=reason if place == len(said) - 1 else None,
                usage=usage if place == len(said) - 1 else None,
            )
            for place, text in enumerate(said)
        ]

    async def render(self, request: RenderRequest) -> Rendering:
        self.renderings.append(request)
        if self.fails_before is not None:
            raise self.fails_before
        text = _text_of(request.prompt, request.adapter)
        return Rendering(text=text, ids=tuple(range(len(text.split()))), moved="")

    async def warm(self, adapter: str) -> None:
        return

    async def info(self) -> EngineInfo:
        if self.info_error is not None:
            raise self.info_error
        return EngineInfo(
            base_model="tiny",
            fingerprint="0" * 64,
            context_tokens=CONTEXT_TOKENS,
            device="cpu",
            dtype="float32",
            resident_adapters=(),
            resident_adapter_bytes=0,
            waiting_requests=0,
            running_requests=0,
        )


def _text_of(prompt: PromptSource, adapter: str | None) -> str:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Variables):
        return " ".join(turn.content for turn in prompt.messages)
    if adapter is None:
        raise InvalidParameter("variables", "this model has no prompt format; send a prompt")
    if "question" not in prompt.variables:
        raise InvalidParameter("variables", 'there is no column "question"')
    return f"Q {prompt.variables['question']} A"
