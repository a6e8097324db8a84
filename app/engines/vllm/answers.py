"""Turns the chunks of vLLM's streamed completion into the deltas of an answer; knows no connection."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from core.errors import GenerationFailed
from core.serving.generation import Alternative, Delta, FinishReason, PromptToken, SamplingParams, Token, Usage
from core.text.tokenizer import TextTokenizer

_TOKEN: Final = "token_id:"  # how vLLM spells tokens where it is asked for ids


class _Logprobs(BaseModel):
    """For each token its id, its logprob and the likeliest ones; a prompt's first token has neither."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class _Choice(BaseModel):
    text: str
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _CachedTokens(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _CachedTokens | None = None


class _Chunk(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class VllmAnswer:
    """One answer as it arrives. Text is vLLM's: it holds back whatever may become a stop sequence."""

    def __init__(self, prompt_ids: Sequence[int], sampling: SamplingParams, tokenizer: TextTokenizer) -> None:
        self._prompt_ids = tuple(prompt_ids)
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._owes_prompt = sampling.prompt_logprobs
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._last: Delta | None = None  # kept until the usage is known

    def take(self, content: Mapping[str, Any]) -> Delta | None:
        """Read one chunk; None where it has nothing to hand over yet.

        Raises:
            GenerationFailed: it is no chunk of this answer, or vLLM gave the answer up.
        """
        try:
            chunk = _Chunk.model_validate(content)
        except ValidationError as error:
            raise GenerationFailed(f"vLLM sent a malformed chunk: {error.errors()[0]['msg']}") from error
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            self._cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens or 0
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        delta = self._delta(choice)
        if choice.finish_reason is None:
            return delta
        self._last = delta.model_copy(update=self._ending(choice))
        return None

    def end(self) -> Delta:
        """Give the last delta, once the stream is over.

        Raises:
            GenerationFailed: vLLM ended the stream without a reason.
        """
        if self._last is None:
            raise GenerationFailed("vLLM ended its answer early")
        usage = Usage(
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
        )
        return self._last.model_copy(update={"usage": usage})

    def _delta(self, choice: _Choice) -> Delta:
        ids = choice.token_ids or []
        prompt_tokens = len(self._prompt_ids) if self._owes_prompt else 0
        rows = _rows(choice.logprobs)
        if len(rows) != prompt_tokens + len(ids) or [token_id for token_id, _, _ in rows[prompt_tokens:]] != ids:
            raise GenerationFailed("vLLM sent logprobs that do not belong to its tokens")
        self._owes_prompt = False
        self._completion_tokens += len(ids)
        prompt = tuple(self._prompt_token(*row) for row in rows[:prompt_tokens]) if prompt_tokens else None
        return Delta(text=choice.text, tokens=tuple(self._token(*row) for row in rows[prompt_tokens:]), prompt=prompt)

    def _ending(self, choice: _Choice) -> dict[str, Any]:
        """Say why the answer ended, in the fields of a delta."""
        match choice.finish_reason, choice.stop_reason:
            case "length", _:
                return {"finish_reason": FinishReason.LENGTH}
            case "stop", str(met):
                return {"finish_reason": FinishReason.STOP, "stop": met}
            case "stop", met:
                stop = met if met in self._sampling.stop_token_ids else None
                return {"finish_reason": FinishReason.END, "stop": stop}
        raise GenerationFailed(f"vLLM gave the answer up ({choice.finish_reason})")

    def _token(self, token_id: int, logprob: float | None, top: Mapping[int, float]) -> Token:
        if logprob is None:
            raise GenerationFailed("vLLM sent a token without its logprob")
        text, special = self._text(token_id)
        return Token(id=token_id, text=text, logprob=logprob, special=special, top=self._alternatives(top))

    def _prompt_token(self, token_id: int, logprob: float | None, top: Mapping[int, float]) -> PromptToken:
        text, special = self._text(token_id)
        return PromptToken(id=token_id, text=text, logprob=logprob, special=special, top=self._alternatives(top))

    def _alternatives(self, top: Mapping[int, float]) -> tuple[Alternative, ...]:
        """Order the likeliest tokens; vLLM puts the chosen one first, as one more where it is not among them."""
        likeliest = sorted(top.items(), key=lambda entry: -entry[1])[: self._sampling.top_logprobs]
        alternatives = []
        for token_id, logprob in likeliest:
            text, special = self._text(token_id)
            alternatives.append(Alternative(id=token_id, text=text, logprob=logprob, special=special))
        return tuple(alternatives)

    def _text(self, token_id: int) -> tuple[str, bool]:
        text = self._tokenizer.token_text(token_id)
        return text, text in self._tokenizer.control_texts


def _rows(logprobs: _Logprobs | None) -> list[tuple[int, float | None, dict[int, float]]]:
    """Give id, logprob and the likeliest tokens of each token of a chunk.

    Raises:
        GenerationFailed: they are not spelt as ids, or are not equally many.
    """
    if logprobs is None:
        return []
    try:
        return [
            (_id_of(token), logprob, {_id_of(name): value for name, value in (top or {}).items()})
            for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
        ]
    except ValueError as error:
        raise GenerationFailed("vLLM sent logprobs that cannot be read") from error


def _id_of(token: str) -> int:
    return int(token.removeprefix(_TOKEN))
