"""Wire types of what text-generation-inference tells of a server, and of its tokenizer."""

from pydantic import Field

from app.http.field_types import StoredText, described_by
from app.http.wire import Body, Out


class InfoOut(Out):
    """What serves a base model. Both ``max_`` counts of tokens are bounds of one thing, the model's context."""

    model_id: str
    model_sha: str  # SHA-256 of the base model's files
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str
    max_concurrent_requests: int  # in the batch, and waiting
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int  # prompt and answer
    max_batch_size: int
    router: str
    version: str


class TokenizeCreate(Body):
    """Asks for a text's tokens. ``model`` is an addition, wanted where there are several base models."""

    model_config = described_by({"inputs": "The sky is"})

    inputs: str = Field(min_length=1)
    add_special_tokens: bool | None = None  # None: as a prompt has them
    model: StoredText | None = None


class TokenPieceOut(Out):
    """A token and the characters of the text that it stands for; none where it was put before the text."""

    id: int
    text: str
    start: int
    stop: int
