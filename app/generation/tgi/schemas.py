"""Wire types of text-generation-inference and LoRAX: one union of keys that serves every client of both."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.generation.openai.shared_schemas import MAX_CHOICES
from app.generation.response_formats import Grammar, ResponseFormat
from app.http.field_types import ONE_OR_MANY, Many, Stop, StoredText, described_by, only
from app.http.wire import Body, Out
from core.serving.generation import MAX_TOP_LOGPROBS, Values


class Parameters(Body):
    """How to generate. ``adapter_id`` is a fine-tuned model's name; without it the base model answers.

    ``adapter_source`` can be "local" only: adapters are this deployment's own.
    """

    adapter_id: StoredText | None = None
    max_new_tokens: int | None = Field(None, ge=1, lt=2**31)
    do_sample: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    seed: int | None = Field(None, ge=0, lt=2**63)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    stop: Annotated[Many[Stop], Field(max_length=16), ONE_OR_MANY] = ()
    ignore_eos_token: bool | None = None
    grammar: Grammar | None = None
    response_format: ResponseFormat | None = None
    truncate: int | None = Field(None, ge=1, lt=2**31)
    apply_chat_template: bool | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    return_k_alternatives: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    return_full_text: bool | None = None

    adapter_source: Annotated[Any, only("local")] = None
    merged_adapters: Annotated[Any, only()] = None
    api_token: Annotated[Any, only()] = None
    typical_p: Annotated[Any, only(1)] = None
    watermark: Annotated[Any, only(False)] = None


class GenerateCreate(Body):
    """Asks for text after ``inputs``, or after what ``variables`` become in the prompt format of the model's training.

    ``variables`` is an addition to the protocol's fields; exactly one of the two is wanted.
    """

    model_config = described_by({"inputs": "The sky is", "parameters": {"max_new_tokens": 8}})

    inputs: str | None = Field(None, min_length=1)
    variables: Values | None = None
    parameters: Parameters | None = None
    stream: bool | None = None


class AlternativeOut(Out):
    id: int
    text: str
    logprob: float


class TopTokenOut(AlternativeOut):
    special: bool


class TokenOut(TopTokenOut):
    """A token of the answer; ``skipped`` is LoRAX's mark of speculation, which is never told of here."""

    skipped: Literal[False]
    alternative_tokens: list[AlternativeOut] | None  # None: return_k_alternatives was not set


class PrefillTokenOut(Out):
    id: int
    text: str
    logprob: float | None  # None: the first token, which nothing predicts


FinishOut = Literal["length", "eos_token", "stop_sequence"]
TopTokensOut = list[list[TopTokenOut]]


class SequenceOut(Out):
    """How an answer came about. ``seed`` is None where it is greedy."""

    finish_reason: FinishOut
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillTokenOut]
    tokens: list[TokenOut]
    top_tokens: TopTokensOut | None  # None: top_n_tokens was not set


class OtherSequenceOut(SequenceOut):
    """An answer that was less likely than the one told."""

    generated_text: str


class DetailsOut(SequenceOut):
    best_of_sequences: list[OtherSequenceOut] | None
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
    top_tokens: list[TopTokenOut] | None
    generated_text: str | None
    details: StreamDetailsOut | None
