"""Wire types of text-generation-inference and LoRAX: one union of keys that serves every client of both."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.wire import Body, Out, Stops, StoredText, only
from core.generation import Values


class Parameters(Body):
    """How to generate. ``adapter_id`` is a fine-tuned model's name; without it the base model answers."""

    adapter_id: StoredText | None = None
    max_new_tokens: int | None = Field(None, ge=1)
    do_sample: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[Stops, Field(max_length=4)] = ()
    details: bool | None = None
    return_full_text: bool | None = None

    adapter_source: Annotated[Any, only()] = None
    merged_adapters: Annotated[Any, only()] = None
    api_token: Annotated[Any, only()] = None
    apply_chat_template: Annotated[Any, only(False)] = None
    best_of: Annotated[Any, only(1)] = None
    decoder_input_details: Annotated[Any, only(False)] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    grammar: Annotated[Any, only()] = None
    ignore_eos_token: Annotated[Any, only(False)] = None
    presence_penalty: Annotated[Any, only(0)] = None
    repetition_penalty: Annotated[Any, only(1)] = None
    response_format: Annotated[Any, only()] = None
    return_k_alternatives: Annotated[Any, only(0)] = None
    top_n_tokens: Annotated[Any, only(0)] = None
    truncate: Annotated[Any, only()] = None
    typical_p: Annotated[Any, only(1)] = None
    watermark: Annotated[Any, only(False)] = None


class GenerateCreate(Body):
    """Asks for text after ``inputs``, or after what ``variables`` become in the prompt format of the model's training.

    ``variables`` is an addition to the protocol's fields; exactly one of the two is wanted.
    """

    inputs: str | None = Field(None, min_length=1)
    variables: Values | None = None
    parameters: Parameters | None = None
    stream: bool | None = None


class TokenOut(Out):
    """A token of the answer; ``skipped`` is LoRAX's mark of speculation, which does not exist here."""

    id: int
    text: str
    logprob: float
    special: bool
    skipped: Literal[False]


FinishOut = Literal["length", "eos_token", "stop_sequence"]


class DetailsOut(Out):
    finish_reason: FinishOut
    generated_tokens: int
    seed: int | None  # None: greedy
    prefill: list[Any]
    tokens: list[TokenOut]
    prompt_tokens: int
    skipped_tokens: Literal[0]


class GenerateOut(Out):
    generated_text: str
    details: DetailsOut | None


class StreamDetailsOut(Out):
    finish_reason: FinishOut
    generated_tokens: int
    seed: int | None
    prompt_tokens: int
    input_length: int  # the same number under TGI's name
    skipped_tokens: Literal[0]


class StreamEventOut(Out):
    """One token; the last event also has the whole text, and the details where they were asked for."""

    index: int
    token: TokenOut
    generated_text: str | None
    details: StreamDetailsOut | None
