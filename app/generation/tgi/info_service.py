"""What text-generation-inference's clients ask of a server beside text: what it serves, and a text's tokens."""

import asyncio
from importlib.metadata import version
from typing import Final

from pydantic import TypeAdapter

from app.generation.openai.shared_schemas import MAX_CHOICES
from app.generation.tgi.info_schemas import InfoOut, TokenizeCreate, TokenPieceOut
from app.http.runtime import ApiRuntime
from app.tokenizers import imported_of, tokenizer_of
from core.errors import PromptTooLong
from core.serving.prompts import refusing_long
from core.settings import Settings

MAX_STOP_SEQUENCES: Final = 16
_PIECES: Final = TypeAdapter(list[TokenPieceOut])


async def describe(runtime: ApiRuntime, base_model: str) -> InfoOut:
    """Describe what serves a base model.

    Raises:
        EngineUnavailable: its engine does not answer.
    """
    info = await runtime.engines.get(base_model).info()
    return InfoOut(
        model_id=base_model,
        model_sha=info.fingerprint,
        model_dtype=info.dtype,
        model_device_type=info.device.partition(":")[0],
        model_pipeline_tag="text-generation",
        max_concurrent_requests=info.max_batch + runtime.settings.engine_max_waiting,
        max_best_of=MAX_CHOICES,
        max_stop_sequences=MAX_STOP_SEQUENCES,
        max_input_tokens=info.context_tokens - 1,
        max_total_tokens=info.context_tokens,
        max_batch_size=info.max_batch,
        router="loramill",
        version=version("loramill"),
    )


async def check(runtime: ApiRuntime) -> None:
    """Ask every engine whether it answers.

    Raises:
        EngineUnavailable: one does not.
    """
    bases = runtime.settings.base_models
    await asyncio.gather(*(runtime.engines.get(base_model).info() for base_model in bases))


def tokenize(request: TokenizeCreate, settings: Settings, base_model: str) -> bytes:
    """Give a text's tokens, after those that a prompt begins with, as a JSON list of `TokenPieceOut`.

    Raises:
        BaseModelNotReady: the base model's tokenizer is not on this machine.
        PromptTooLong: the text has more tokens than the base model's context.
        InvalidParameter: it has more bytes than are tokenised for this base model.
    """
    context_tokens = imported_of(settings, base_model).context_tokens
    tokenizer = tokenizer_of(settings, base_model).limited(context_tokens)
    with refusing_long(max_tokens=0, context_tokens=context_tokens):
        ids, spans = tokenizer.encode_spans(request.inputs)
    if len(ids) > context_tokens:
        raise PromptTooLong(len(ids), 0, context_tokens)
    before = () if request.add_special_tokens is False else tokenizer.prefix_ids
    pieces = [TokenPieceOut(id=id, text=tokenizer.token_text(id), start=0, stop=0) for id in before]
    pieces += [
        TokenPieceOut(id=id, text=request.inputs[start:stop], start=start, stop=stop)
        for id, (start, stop) in zip(ids, spans, strict=True)
    ]
    return _PIECES.dump_json(pieces)
