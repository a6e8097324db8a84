"""Text-generation-inference's generate, which LoRAX shares, in terms of an engine."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from app.schemas.generate import (
    DetailsOut,
    FinishOut,
    GenerateCreate,
    GenerateOut,
    Parameters,
    StreamDetailsOut,
    StreamEventOut,
    TokenOut,
)
from app.services.models import ServedModel
from core.errors import InvalidParameter
from core.generation import (
    Delta,
    Engine,
    FinishReason,
    GenerationRequest,
    PromptSource,
    RenderRequest,
    SamplingParams,
    Token,
    Usage,
    Variables,
)
from core.ids import new_id
from core.settings import Settings

MAX_NEW_TOKENS: Final = 100  # text-generation-inference's default

_FINISH: Final[dict[FinishReason, FinishOut]] = {
    FinishReason.LENGTH: "length",
    FinishReason.END: "eos_token",
    FinishReason.STOP: "stop_sequence",
}


def model_name(request: GenerateCreate, settings: Settings) -> str:
    """Give the model that a request names, or the deployment's only base model.

    Raises:
        InvalidParameter: it names none, and there are several base models.
    """
    adapter_id = request.parameters.adapter_id if request.parameters else None
    if adapter_id is not None:
        return adapter_id
    if len(settings.base_models) != 1:
        raise InvalidParameter(
            "parameters.adapter_id", f"name a fine-tuned model, or one of {', '.join(settings.base_models)}"
        )
    return settings.base_models[0]


def prompt_of(request: GenerateCreate) -> PromptSource:
    """Give the prompt that a request has in one of two fields.

    Raises:
        InvalidParameter: it has none, or both.
    """
    if request.inputs is not None and request.variables is not None:
        raise InvalidParameter("variables", "there is a prompt in inputs already; send only one of the two")
    if request.inputs is not None:
        return request.inputs
    if request.variables is not None:
        return Variables(variables=request.variables)
    raise InvalidParameter("inputs", "give a prompt, or variables for the prompt format of the model's training")


def sampling_of(parameters: Parameters) -> SamplingParams:
    """Read the parameters as text-generation-inference does.

    Greedy unless ``do_sample`` is set or a parameter is given that only sampling has a use for;
    temperature 0 is greedy too. Where it samples without a seed, one is drawn, so that the answer
    can tell it.
    """
    asks_to_sample = (
        parameters.do_sample
        or parameters.temperature not in (None, 1.0)
        or parameters.top_k is not None
        or parameters.top_p not in (None, 1.0)
    )
    temperature = (1.0 if parameters.temperature is None else parameters.temperature) if asks_to_sample else 0.0
    seed = parameters.seed
    if seed is None and temperature > 0:
        seed = secrets.randbits(63)
    return SamplingParams(
        max_tokens=MAX_NEW_TOKENS if parameters.max_new_tokens is None else parameters.max_new_tokens,
        temperature=temperature,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=parameters.top_k,
        seed=seed,
        stop=parameters.stop,
    )


class Generation:
    """One request for generated text.

    Raises:
        InvalidParameter: it has no prompt, or two.
    """

    def __init__(self, request: GenerateCreate, model: ServedModel, engine: Engine) -> None:
        self._parameters = request.parameters or Parameters()
        self._engine = engine
        self._prompt = prompt_of(request)
        self._request = GenerationRequest(
            id=new_id("gen-"), prompt=self._prompt, adapter=model.adapter, sampling=sampling_of(self._parameters)
        )

    async def whole(self) -> GenerateOut:
        """Generate to the end.

        Raises:
            ServiceError: as `core.generation.Engine.generate`.
        """
        text = await self._shown_prompt()
        tokens: list[TokenOut] = []
        details: DetailsOut | None = None
        async with aclosing(self._engine.generate(self._request)) as deltas:
            async for delta in deltas:
                text += delta.text
                tokens += _tokens_of(delta)
                if delta.finish_reason and delta.usage and self._parameters.details:
                    details = self._details(delta.finish_reason, delta.usage, tokens)
        return GenerateOut(generated_text=text, details=details)

    async def events(self) -> AsyncGenerator[StreamEventOut, None]:
        """Generate token by token, one event each.

        Raises:
            ServiceError: as `core.generation.Engine.generate`.
        """
        text = await self._shown_prompt()
        index = 0
        async with aclosing(self._engine.generate(self._request)) as deltas:
            async for delta in deltas:
                text += delta.text
                tokens = _tokens_of(delta)
                for place, token in enumerate(tokens, start=1):
                    index += 1
                    ends = place == len(tokens) and delta.finish_reason is not None
                    yield StreamEventOut(
                        index=index,
                        token=token,
                        generated_text=text if ends else None,
                        details=self._stream_details(delta) if ends else None,
                    )

    async def _shown_prompt(self) -> str:
        if not self._parameters.return_full_text:
            return ""
        if isinstance(self._prompt, str):
            return self._prompt
        return (await self._engine.render(RenderRequest(prompt=self._prompt, adapter=self._request.adapter))).text

    def _details(self, reason: FinishReason, usage: Usage, tokens: list[TokenOut]) -> DetailsOut:
        return DetailsOut(
            finish_reason=_FINISH[reason],
            generated_tokens=usage.completion_tokens,
            seed=self._seed(),
            prefill=[],
            tokens=tokens,
            prompt_tokens=usage.prompt_tokens,
            skipped_tokens=0,
        )

    def _stream_details(self, last: Delta) -> StreamDetailsOut | None:
        if not self._parameters.details or last.finish_reason is None or last.usage is None:
            return None
        return StreamDetailsOut(
            finish_reason=_FINISH[last.finish_reason],
            generated_tokens=last.usage.completion_tokens,
            seed=self._seed(),
            prompt_tokens=last.usage.prompt_tokens,
            input_length=last.usage.prompt_tokens,
            skipped_tokens=0,
        )

    def _seed(self) -> int | None:
        return self._request.sampling.seed if self._request.sampling.temperature > 0 else None


def _tokens_of(delta: Delta) -> list[TokenOut]:
    """Give a delta's tokens, with the delta's text on the last one that clients print.

    Clients print the texts of ordinary tokens one by one. A token's own text can be half a character,
    or the beginning of a stop sequence, which the delta's text holds back until it is certain. Text
    that becomes certain only with the end token makes that one ordinary, since it would be lost else.
    """
    ordinary = [place for place, token in enumerate(delta.tokens) if not token.special]
    bearer = ordinary[-1] if ordinary else len(delta.tokens) - 1 if delta.text else None
    return [
        _token_out(token, delta.text, special=False)
        if place == bearer
        else _token_out(token, token.text if token.special else "", special=token.special)
        for place, token in enumerate(delta.tokens)
    ]


def _token_out(token: Token, text: str, *, special: bool) -> TokenOut:
    return TokenOut(id=token.id, text=text, logprob=token.logprob, special=special, skipped=False)
