"""What OpenAI's completions and chat completions share: how tokens are chosen, streams, and usage.

``top_k``, ``min_p``, ``repetition_penalty``, ``stop_token_ids``, ``ignore_eos`` and ``regex`` are additions
to the protocol's fields.
"""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StringConstraints

from app.generation.response_formats import ResponseFormat
from app.http.field_types import ONE_OR_MANY, ONLY_SUCH_KEYS, Many, Stop, StoredText, only, whole
from app.http.wire import Body, Out

MAX_CHOICES: Final = 16  # of one prompt
TokenId = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(whole)]
# JSON has no keys but strings; an id has one spelling.
TokenIdKey = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")]

Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, only(False)] = None


class SamplingFields(Body):
    """The fields of a request that say how its tokens are chosen; null stands for the default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenIdKey, Bias], Field(max_length=1024), ONLY_SUCH_KEYS] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[Many[Stop], Field(max_length=4), ONE_OR_MANY] = ()
    stop_token_ids: Annotated[Many[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[StoredText, Field(max_length=512)] | None = None


class PromptTokensDetailsOut(Out):
    cached_tokens: int  # whose keys and values an earlier request had left


class UsageOut(Out):
    """Tokens of each prompt, once, and of all that was generated, choices that were not told included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetailsOut
