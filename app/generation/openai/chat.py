"""OpenAI's chat completions in terms of an engine, which writes the messages out by the model's chat template."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from app.generation.answered_by import answer_id, fingerprint_of
from app.generation.choices import Answer, Choices
from app.generation.openai import logprobs
from app.generation.openai.answers import FINISH, usage_out
from app.generation.openai.chat_schemas import (
    ChatChoiceOut,
    ChatChunkChoiceOut,
    ChatChunkOut,
    ChatCreate,
    ChatLogprobsOut,
    ChatMessage,
    ChatOut,
    EndDelta,
    MessageOut,
    RoleDelta,
    TextDelta,
)
from app.generation.openai.sampling import sampling_of, whose
from app.models.service import ServedModel
from core.errors import InvalidParameter
from core.serving.generation import Conversation, Delta, Engine, FinishReason, Token, Turn

# An answer without a limit of its own may be as long as the context leaves room for, and no longer than this:
# an engine keeps memory for all that a request may become.
MAX_TOKENS: Final = 1024


class ServedChat:
    """One request for a conversation's next message: the same id and time in each of its chunks.

    Raises:
        InvalidParameter: fields contradict each other.
    """

    def __init__(self, request: ChatCreate, model: ServedModel, engine: Engine, *, caller: str, now: int) -> None:
        self._request = request
        self._model = model
        self._id = answer_id("chatcmpl-", model)
        self._now = now
        if request.top_logprobs is not None and not request.logprobs:
            raise InvalidParameter("top_logprobs", "is told with logprobs only; set logprobs to true")
        max_tokens = _max_tokens_of(request)
        self._choices = Choices(
            engine,
            [conversation_of(request.messages)],
            model.adapter,
            sampling_of(
                request,
                max_tokens=MAX_TOKENS if max_tokens is None else max_tokens,
                top_logprobs=request.top_logprobs or 0,
            ),
            each=1 if request.n is None else request.n,
            id=self._id,
            caller=whose(caller, request.user),
            fits=max_tokens is None,
        )

    async def whole(self) -> ChatOut:
        """Generate to the end.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        answers = await self._choices.whole()
        return ChatOut(
            id=self._id,
            object="chat.completion",
            created=self._now,
            model=self._model.name,
            system_fingerprint=fingerprint_of(self._model),
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage_out(self._choices.usage),
        )

    async def chunks(self) -> AsyncGenerator[ChatChunkOut, None]:
        """Generate piece by piece: the role, the text, the finish reason, and with ``include_usage`` the usage.

        Raises:
            ServiceError: as `core.serving.generation.Engine.generate`.
        """
        begun: set[int] = set()
        async with aclosing(self._choices.deltas()) as deltas:
            async for index, delta in deltas:
                if index not in begun:
                    begun.add(index)
                    yield self._chunk(index, RoleDelta(role="assistant", content=""))
                for chunk in self._chunks_of(index, delta):
                    yield chunk
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield self._out([], is_last=True)

    def _chunks_of(self, index: int, delta: Delta) -> list[ChatChunkOut]:
        told = self._logprobs(delta.tokens)
        chunks = []
        if delta.text or (told is not None and told.content):
            chunks.append(self._chunk(index, TextDelta(content=delta.text), told=told))
        if delta.finish_reason is not None:
            chunks.append(self._chunk(index, EndDelta(), delta.finish_reason))
        return chunks

    def _choice(self, index: int, answer: Answer) -> ChatChoiceOut:
        return ChatChoiceOut(
            index=index,
            message=MessageOut(role="assistant", content=answer.text, refusal=None),
            finish_reason=FINISH[answer.finish_reason],
            logprobs=self._logprobs(answer.tokens),
        )

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobsOut | None:
        return logprobs.of_chat(tokens) if self._request.logprobs else None

    def _chunk(
        self,
        index: int,
        delta: RoleDelta | TextDelta | EndDelta,
        reason: FinishReason | None = None,
        told: ChatLogprobsOut | None = None,
    ) -> ChatChunkOut:
        finish = FINISH[reason] if reason else None
        return self._out([ChatChunkChoiceOut(index=index, delta=delta, finish_reason=finish, logprobs=told)])

    def _out(self, choices: list[ChatChunkChoiceOut], *, is_last: bool = False) -> ChatChunkOut:
        return ChatChunkOut(
            id=self._id,
            object="chat.completion.chunk",
            created=self._now,
            model=self._model.name,
            system_fingerprint=fingerprint_of(self._model),
            choices=choices,
            usage=usage_out(self._choices.usage) if is_last else None,
        )


def conversation_of(messages: Sequence[ChatMessage]) -> Conversation:
    """Read messages as turns; a developer is who was called system before."""
    return Conversation(
        messages=tuple(
            Turn(role="system" if message.role == "developer" else message.role, content=message.content)
            for message in messages
        )
    )


def _max_tokens_of(request: ChatCreate) -> int | None:
    """Give the limit that the request has under one of its two names; None: it has none."""
    if request.max_completion_tokens is None:
        return request.max_tokens
    if request.max_tokens not in (None, request.max_completion_tokens):
        raise InvalidParameter("max_tokens", "max_completion_tokens says something else; send only one of them")
    return request.max_completion_tokens
