"""OpenAI's wire type of a model, with ``parent`` telling a fine-tuned model's base."""

from typing import Literal

from app.http.wire import Deleted, Out


class ModelOut(Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None  # None: a base model


class DeletedModel(Deleted):
    frees_bytes: int
