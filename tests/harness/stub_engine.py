"""A stand-in for an engine: it answers from a script, and remembers what it was asked and what was cancelled."""

import asyncio
from collections.abc import AsyncGenerator

from core.errors import InvalidParameter, PromptTooLong, ServiceError
from core.serving.admission import Load
from core.serving.generation import (
    Alternative,
    Constraint,
    Delta,
    EngineInfo,
    FinishReason,
    GenerationRequest,
    PromptSource,
    PromptToken,
    Rendering,
    RenderRequest,
    SamplingParams,
    Token,
    Usage,
    Variables,
)

CONTEXT_TOKENS = 256
END = "<|end|>"
FIRST_ID = 10  # of the words of a reply, by their place; the end token has the next one
LOGPROB = -0.5
CONSTRAINED = {"json_schema": '{"answer":"one"}', "json_object": "{}", "regex": "one"}


class StubEngine:
    """Fulfils `core.serving.generation.Engine`: a prompt of n words (or ids) has n tokens, and so has a reply.

    The reply is ``" one two three"`` word by word, then the end token; ``script`` gives other replies for the
    next requests, each with its tokens' logprob. Stop sequences are honoured where one is a whole word of the
    reply. What constrained answers are is `CONSTRAINED`. Of every adapter the prompt format is
    ``Q {{question}} A``, and a conversation is written out as its contents.
    """

    def __init__(self, reply: str = " one two three") -> None:
        self.reply = reply
        self.script: list[tuple[str, float]] = []
        self.cached_tokens = 0
        self.requests: list[GenerationRequest] = []
        self.renderings: list[RenderRequest] = []
        self.warmed: list[str] = []
        self.unloaded: list[str] = []
        self.cancelled: list[str] = []
        self.fails_before: ServiceError | Exception | None = None
        self.fails_after: tuple[int, ServiceError | Exception] | None = None  # deltas, then the error
        self.holds: asyncio.Event | None = None  # where set, awaited after the first delta
        self.info_error: ServiceError | None = None
        self.fingerprint = "0" * 64

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
        prompt = _prompt_tokens(request)
        most = request.sampling.max_tokens
        if len(prompt) + most > CONTEXT_TOKENS:
            raise PromptTooLong(len(prompt), most, CONTEXT_TOKENS)
        reply, logprob = self.script.pop(0) if self.script else (self.reply, LOGPROB)
        if not most:
            usage = Usage(prompt_tokens=len(prompt), completion_tokens=0, cached_tokens=self.cached_tokens)
            return [Delta(text="", tokens=(), finish_reason=FinishReason.LENGTH, usage=usage, prompt=prompt)]
        said, reason, stop = _say(_words(reply, request.sampling.constraint), request.sampling)
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(said), cached_tokens=self.cached_tokens)
        last = len(said) - 1
        return [
            Delta(
                text="" if place == last and reason is not FinishReason.LENGTH else token_text,
                tokens=(_token(token_id, token_text, logprob, request.sampling.top_logprobs),),
                finish_reason=reason if place == last else None,
                usage=usage if place == last else None,
                prompt=prompt if place == 0 and request.sampling.prompt_logprobs else None,
                stop=stop if place == last else None,
            )
            for place, (token_id, token_text) in enumerate(said)
        ]

    async def render(self, request: RenderRequest) -> Rendering:
        self.renderings.append(request)
        if self.fails_before is not None:
            raise self.fails_before
        text = _text_of(request.prompt, request.adapter)
        return Rendering(text=text, ids=tuple(range(len(text.split()))), moved="")

    async def warm(self, adapter: str) -> None:
        if self.fails_before is not None:
            raise self.fails_before
        self.warmed.append(adapter)

    async def unload(self, adapter: str) -> None:
        if self.fails_before is not None:
            raise self.fails_before
        self.unloaded.append(adapter)

    async def info(self) -> EngineInfo:
        if self.info_error is not None:
            raise self.info_error
        return EngineInfo(
            base_model="tiny",
            fingerprint=self.fingerprint,
            context_tokens=CONTEXT_TOKENS,
            device="cpu",
            dtype="float32",
            max_batch=8,
            resident_adapters=(),
            resident_adapter_bytes=0,
            loading_adapters=0,
            waiting_requests=0,
            waiting_tokens=0,
            running_requests=0,
            kv_bytes=0,
            kv_limit_bytes=2**20,
            prefill_tokens_per_s=None,
            decode_tokens_per_s=None,
        )


class ServedStub(StubEngine):
    """A scripted engine as the engine process's own server holds it."""

    is_alive = True

    @property
    def waiting_by_adapter(self) -> dict[str | None, Load]:
        return {}

    def start(self) -> None:
        return

    async def close(self) -> None:
        return


def _words(reply: str, constraint: Constraint | None) -> list[str]:
    return [f" {word}" for word in reply.split()] if constraint is None else [CONSTRAINED[constraint.kind]]


def _say(words: list[str], sampling: SamplingParams) -> tuple[list[tuple[int, str]], FinishReason, str | int | None]:
    """Give the tokens that are generated, why no more of them are, and which stop was met."""
    said: list[tuple[int, str]] = []
    while True:
        for place, word in enumerate(words):
            said.append((FIRST_ID + place, word))
            if word.strip() in sampling.stop:
                return said, FinishReason.STOP, word.strip()
            if FIRST_ID + place in sampling.stop_token_ids:
                return said, FinishReason.END, FIRST_ID + place
            if len(said) == sampling.max_tokens:
                return said, FinishReason.LENGTH, None
        said.append((FIRST_ID + len(words), END))
        if not sampling.ignore_end:
            return said, FinishReason.END, None
        if len(said) == sampling.max_tokens:
            return said, FinishReason.LENGTH, None


def _token(token_id: int, text: str, logprob: float, top: int) -> Token:
    return Token(id=token_id, text=text, logprob=logprob, special=text == END, top=_top(text, logprob, top))


def _top(text: str, logprob: float, top: int) -> tuple[Alternative, ...]:
    """Give the likeliest tokens: a better one, the chosen one, and then worse and worse ones."""
    likeliest = [(" best", logprob / 2), (text, logprob), *((f" worse{n}", logprob - n) for n in range(1, top))]
    return tuple(
        Alternative(id=100 + n, text=text, logprob=logprob, special=text == END)
        for n, (text, logprob) in enumerate(likeliest[:top])
    )


def _prompt_tokens(request: GenerationRequest) -> tuple[PromptToken, ...]:
    prompt, top = request.prompt, request.sampling.top_logprobs
    if isinstance(prompt, tuple):
        pieces = [(token_id, f" {token_id}") for token_id in prompt]
    else:
        text = _text_of(prompt, request.adapter)
        pieces = [(place, f" {word}" if place else word) for place, word in enumerate(text.split())]
    return tuple(
        PromptToken(
            id=token_id,
            text=text,
            logprob=LOGPROB if place else None,
            special=False,
            top=_top(text, LOGPROB, top) if place else (),
        )
        for place, (token_id, text) in enumerate(pieces)
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
