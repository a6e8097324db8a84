"""OpenAI's wire type of a model, with ``parent`` telling a fine-tuned model's base, and which version it is of what."""

from typing import Literal

from app.http.wire import Out
from core.jobs.imported import Checked


class ModelOut(Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None  # None: a base model
    suffix: str | None  # of its family, which is its owner's; None: it has none
    version: int | None  # of the family, from 1
    model: str | None  # what an alias stands for; None: this is no alias
    rendering: Checked | None  # of prompts as in training: by whom that is known, of a fine-tuned model
